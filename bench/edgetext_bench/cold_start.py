"""Process start to first token: this runtime, a bare session of the same graph, and transformers.

``python -m edgetext_bench.cold_start MODEL.etx [--transformers DIR]``. Every way is a fresh process, and all
take turns; the parent measures from before the process is made until it has the line that says "done".

- *interpreter*: ``python -c`` that prints the line at once;
- *bare session*: ``import onnxruntime`` and an ``InferenceSession`` of the bundle's ``model.onnx``: no
  tokenizer, no checks, no token;
- *edgetext*: ``Generator.load`` and the first token of a prompt;
- *edgetext, numpy*: the same without onnxruntime;
- *transformers*: ``AutoTokenizer`` and ``AutoModelForCausalLM`` from a local directory, the first token of
  the same prompt. ``--make-transformers DIR`` makes one: a Llama of the shape the bundle's manifest gives,
  with random weights, and the bundle's own tokenizer. Loading does not depend on the weights' values.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from edgetext_bench.script import parser, run
from edgetext_runtime.bundle import Bundle, read_bundle
from edgetext_runtime.errors import EdgetextError, InputError

_INTERPRETER = "print('done', flush=True)"
_BARE = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print("done", flush=True)
"""
_EDGETEXT = """
import sys
from edgetext_runtime import Generator
generator = Generator.load(sys.argv[1], provider=sys.argv[3])
generator.generate(sys.argv[2], max_new_tokens=1, seed=0)
print("done", flush=True)
"""
_TRANSFORMERS = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.generate(**tokenizer(sys.argv[2], return_tensors="pt"), max_new_tokens=1, do_sample=False)
print("done", flush=True)
"""


def measure_cold_start(
    path: Path, *, prompt: str, repeats: int, transformers: Path | None = None
) -> dict[str, list[float]]:
    """Seconds from the start of a process to its answer, by way; one round before the first is not counted.

    Raises:
        BundleError: if the path is not a bundle.
        EdgetextError: if a process fails.
        InputError: if ``repeats`` is below 1.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; allowed is 1 or more (--repeats 9)")
    bundle = read_bundle(path)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(bundle.members["model.onnx"])
        ways = {
            "interpreter": [_INTERPRETER],
            "bare session": [_BARE, str(model)],
            "edgetext": [_EDGETEXT, str(path), prompt, "auto"],
            "edgetext, numpy": [_EDGETEXT, str(path), prompt, "numpy"],
        }
        if transformers is not None:
            ways["transformers"] = [_TRANSFORMERS, str(transformers), prompt]
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(repeats + 1):
            for name, (code, *arguments) in ways.items():
                seconds = _seconds(name, [sys.executable, "-c", code, *arguments])
                if number:
                    samples[name].append(seconds)
    return samples


def _seconds(name: str, command: list[str]) -> float:
    began = perf_counter()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=_environment()) as process:
            line = process.stdout.readline() if process.stdout else b""
            taken = perf_counter() - began
        errors.seek(0)
        if line.strip() != b"done" or process.returncode:
            raise EdgetextError(f"{name} failed: {errors.read().decode(errors='replace').strip()[-800:]}")
    return taken


def _environment() -> dict[str, str]:
    """The environment, but modules may keep their bytecode, which an installed package has."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def make_transformers(bundle: Bundle, folder: Path) -> Path:
    """Write a Llama of the bundle's shape, with random weights and its tokenizer, as transformers wants it.

    Raises:
        InputError: if the bundle is not a Transformer.
    """
    config = bundle.manifest.config
    if bundle.manifest.architecture != "transformer":
        raise InputError(
            "the bundle is recurrent, which transformers does not have; allowed is a Transformer"
        )
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    shape = LlamaConfig(
        vocab_size=bundle.manifest.vocab_size,
        hidden_size=config["hidden"],
        intermediate_size=config["ffn"],
        num_hidden_layers=config["layers"],
        num_attention_heads=config["heads"],
        num_key_value_heads=config["kv_heads"],
        max_position_embeddings=bundle.manifest.context_length or 0,
        tie_word_embeddings=config["tied"],
        bos_token_id=bundle.manifest.eos_id,
        eos_token_id=bundle.manifest.eos_id,
        pad_token_id=bundle.manifest.special_tokens["pad"],
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokenizer.json"
        file.write_bytes(bundle.members["tokenizer.json"])
        PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_file=str(file), eos_token="<eos>", pad_token="<pad>"
        ).save_pretrained(folder)
    return folder


def _table(record: Mapping[str, Any]) -> str:
    medians = {name: median(values) for name, values in record["seconds"].items()}
    bare = medians["bare session"]
    lines = ["| way | median ms | min | max | times the bare session |", "| --- | --: | --: | --: | --: |"]
    for name, values in record["seconds"].items():
        figures = (medians[name] * 1e3, min(values) * 1e3, max(values) * 1e3)
        lines.append(
            f"| {name} | " + " | ".join(f"{f:,.0f}" for f in figures) + f" | {medians[name] / bare:.2f} |"
        )
    if "transformers" in medians:
        lines += ["", f"transformers / edgetext: {medians['transformers'] / medians['edgetext']:.1f}×"]
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    made = parser("edgetext_bench.cold_start", __doc__)
    made.add_argument("bundle", type=Path, metavar="MODEL.etx")
    made.add_argument("--prompt", default="Return the")
    made.add_argument("--repeats", type=int, default=9, help="fresh processes of each way (default: 9)")
    made.add_argument(
        "--transformers", type=Path, metavar="DIR", help="a transformers directory to compare with"
    )
    made.add_argument("--make-transformers", type=Path, metavar="DIR", help="make one and compare with it")

    def measure(options: Any) -> dict[str, Any]:
        other = options.transformers
        bundle = read_bundle(options.bundle)
        if options.make_transformers:
            other = make_transformers(bundle, options.make_transformers)
        seconds = measure_cold_start(
            options.bundle, prompt=options.prompt, repeats=options.repeats, transformers=other
        )
        manifest = bundle.manifest
        shape = {"architecture": manifest.architecture, "precision": manifest.precision}
        return {"bundle": {**shape, "parameters": manifest.parameters}, "seconds": seconds}

    return run(made, measure, _table)


if __name__ == "__main__":
    sys.exit(main())
