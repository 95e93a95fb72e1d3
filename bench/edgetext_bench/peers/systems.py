"""How each runtime reads a Hugging Face directory, and how it is asked for tokens through its Python API.

Every system has a function that converts the directory once, and one that loads the result and returns a
call (number of tokens, seed) → number of tokens written. All sample with top-k, top-p and temperature, none
stops at the end of a text where its API lets one say so, and all begin with the same few token ids.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetext_runtime.errors import DependencyError, EdgetextError

Decode = Callable[[int, int], int]
"""(tokens to write, seed) → tokens written."""
PROMPT = (300, 301, 302)
"""Ids after the one that begins a text. What they say does not matter: all weights are read for any token."""


@dataclass(frozen=True)
class Sampling:
    """How every system samples."""

    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class System:
    """One runtime at one precision."""

    name: str
    """As the table shows it."""
    package: str
    """What is imported."""
    prepare: Callable[[Path, Path], Path]
    """(model directory, folder to write into) → what `open` takes."""
    open: Callable[[Path, int, Sampling], Decode]
    """(prepared model, threads, sampling) → decoding."""


def begin_id(directory: Path) -> int:
    """The id that begins a text in a model directory."""
    config = json.loads((directory / "config.json").read_bytes())
    return int(config["eos_token_id"] if config.get("bos_token_id") is None else config["bos_token_id"])


def _as_it_is(directory: Path, folder: Path) -> Path:
    return directory


def _open_transformers(path: Path, threads: int, sampling: Sampling) -> Decode:
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    model.eval()
    prompt = torch.tensor([[begin_id(path), *PROMPT]])
    mask = torch.ones_like(prompt)

    def decode(tokens: int, seed: int) -> int:
        set_seed(seed)
        written = model.generate(
            prompt,
            attention_mask=mask,
            do_sample=True,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            pad_token_id=0,
        )
        return int(written.shape[1]) - prompt.shape[1]

    return decode


def _genai(precision: str, **options: str) -> Callable[[Path, Path], Path]:
    def prepare(directory: Path, folder: Path) -> Path:
        out = folder / f"genai-{precision}"
        extra = [f"{name}={value}" for name, value in options.items()]
        words = [
            "-i",
            str(directory),
            "-o",
            str(out),
            "-p",
            precision,
            "-e",
            "cpu",
            "--extra_options",
            *extra,
        ]
        _run([sys.executable, "-m", "onnxruntime_genai.models.builder", *words])
        return out

    return prepare


def _open_genai(path: Path, threads: int, sampling: Sampling) -> Decode:
    import onnxruntime_genai as genai

    config = json.loads((path / "genai_config.json").read_text())
    session = config["model"]["decoder"]["session_options"]
    session["intra_op_num_threads"] = threads
    (path / "genai_config.json").write_text(json.dumps(config))
    model = genai.Model(str(path))
    begin = config["model"]["bos_token_id"]

    def decode(tokens: int, seed: int) -> int:
        params = genai.GeneratorParams(model)
        length = 1 + len(PROMPT) + tokens
        params.set_search_options(
            do_sample=True,
            max_length=length,
            min_length=length,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            random_seed=seed + 1,
        )
        generator = genai.Generator(model, params)
        generator.append_tokens([begin, *PROMPT])
        written = 0
        while not generator.is_done() and written < tokens:
            generator.generate_next_token()
            written += 1
        return written

    return decode


def _gguf(kind: str) -> Callable[[Path, Path], Path]:
    def prepare(directory: Path, folder: Path) -> Path:
        from edgetext_bench.peers.gguf_file import write_gguf

        return write_gguf(directory, folder / f"model-{kind}.gguf", kind)

    return prepare


def _open_llama_cpp(path: Path, threads: int, sampling: Sampling) -> Decode:
    import llama_cpp

    llama = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False, seed=0
    )
    begin = llama.token_bos()

    def decode(tokens: int, seed: int) -> int:
        llama.set_seed(seed)
        llama.reset()  # type: ignore[no-untyped-call, unused-ignore]
        written = 0
        stream = llama.generate(
            [begin, *PROMPT],
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=0.0,
            temp=sampling.temperature,
            repeat_penalty=1.0,
        )
        for _ in stream:
            written += 1
            if written == tokens:
                break
        return written

    return decode


def _ctranslate2(directory: Path, folder: Path) -> Path:
    import ctranslate2.converters as converters

    out = folder / "ctranslate2-int8"
    with _quiet():
        converters.TransformersConverter(str(directory)).convert(str(out), quantization="int8", force=True)
    return out


def _open_ctranslate2(path: Path, threads: int, sampling: Sampling) -> Decode:
    import ctranslate2

    generator = ctranslate2.Generator(
        str(path), device="cpu", intra_threads=threads, inter_threads=1, compute_type="int8"
    )
    vocabulary = json.loads((path / "vocabulary.json").read_text())
    begin = json.loads((path / "config.json").read_text()).get("bos_token", vocabulary[0])
    prompt = [begin, *(vocabulary[i] for i in PROMPT)]

    def decode(tokens: int, seed: int) -> int:
        ctranslate2.set_random_seed(seed)
        result = generator.generate_batch(
            [prompt],
            max_length=tokens,
            min_length=tokens,
            sampling_topk=sampling.top_k,
            sampling_topp=sampling.top_p,
            sampling_temperature=sampling.temperature,
            include_prompt_in_result=False,
        )
        return len(result[0].sequences_ids[0])

    return decode


def _open_bundle(path: Path, threads: int, sampling: Sampling) -> Decode:
    from edgetext_runtime import Generator

    generator = Generator.load(path, threads=threads)
    end = generator.manifest.eos_id
    text = generator.tokenizer.decode([i % generator.manifest.vocab_size for i in PROMPT])

    def decode(tokens: int, seed: int) -> int:
        options: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
        }
        result = generator.generate(text, max_new_tokens=tokens, seed=seed, **options)
        return len(result.tokens) + (end in result.tokens)

    return decode


def bundle_system(name: str) -> System:
    """One of our bundles beside its peers."""
    return System(name, "edgetext_runtime", _as_it_is, _open_bundle)


PEERS: tuple[System, ...] = (
    System("transformers fp32", "transformers", _as_it_is, _open_transformers),
    System("onnxruntime-genai int8", "onnxruntime_genai", _genai("int8", accuracy_level="4"), _open_genai),
    System("onnxruntime-genai int4", "onnxruntime_genai", _genai("int4", accuracy_level="4"), _open_genai),
    System("llama-cpp-python Q8_0", "llama_cpp", _gguf("Q8_0"), _open_llama_cpp),
    System("llama-cpp-python Q4_0", "llama_cpp", _gguf("Q4_0"), _open_llama_cpp),
    System("ctranslate2 int8", "ctranslate2", _ctranslate2, _open_ctranslate2),
)


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise EdgetextError(f"{' '.join(words[1:4])} failed: {done.stderr.strip().splitlines()[-1:]}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep a library's progress bars off the terminal."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def require(package: str) -> None:
    """Raise DependencyError with the command to install a peer that is missing."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise DependencyError(f"{package} is not installed: pip install 'edgetext[peers]'")
