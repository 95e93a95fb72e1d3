"""What Python adds to a token, and whether it stays so: overhead, memory and speed over a million tokens.

``python -m edgetext_bench.overhead MODEL.etx --tokens 1000000``. Rounds of three ways take turns:
``generate`` (text, UTF-8, everything), ``session.step`` alone, and the bare session: ``run_with_iobinding``
of the same graph on buffers that are bound once, fed the same kind of tokens, with the call alone timed. The
overhead is the time of a token after the first in ``generate`` less that of the bare call (medians). Then
texts are generated until the tokens are reached, and resident memory and speed noted after every 20th part.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext_bench.script import parser, run
from edgetext_bench.work import without_sampling
from edgetext_runtime import Generator, SamplingParams
from edgetext_runtime.errors import InputError

_LONGEST = 1000
_PARTS = 20


def resident_bytes() -> int:
    """Memory of this process that is in RAM (Linux)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


Bare = tuple[Callable[[], None], Callable[[], None], NDArray[np.int64], NDArray[np.float32]]
"""Two bindings to be run in turns, and the buffers of the token and the uniform number."""


def bare_calls(generator: Generator, sampling: SamplingParams, *, sample: bool = True) -> Bare:
    """The bare graph: an onnxruntime session and two bindings that hand the state to and fro.

    Without ``sample`` it ends at the logits, so that what sampling takes is the difference.
    """
    import onnxruntime as ort

    manifest, params = generator.manifest, sampling.resolve(generator.manifest.vocab_size)
    options = ort.SessionOptions()
    options.intra_op_num_threads = generator.session.threads
    options.enable_mem_pattern = False
    whole = generator.bundle.members["model.onnx"]
    model = whole if sample else without_sampling(whole)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs: dict[str, NDArray[Any]] = {
        "tokens": np.zeros((1, 1), np.int64),
        "positions": np.zeros(1, np.int64),
        "uniform": np.full(1, 0.5, np.float32),
        "past_length": np.zeros(1, np.int64),
        "temperature": np.full(1, params.temperature, np.float32),
        "top_k": np.full(1, params.top_k, np.int64),
        "top_p": np.full(1, params.top_p, np.float32),
        "min_p": np.full(1, params.min_p, np.float32),
    }
    place = ort.OrtValue.ortvalue_from_numpy
    values = {
        name: place(array) for name, array in inputs.items() if name != "past_length" or manifest.has_cache
    }
    token = place(np.zeros((1, 1), np.int64))
    sides: tuple[list[Any], list[Any]] = ([], [])
    for entry in manifest.state:
        shape = entry.concrete_shape(1, manifest.context_length)
        sides[0].append(place(np.zeros(shape, entry.dtype)))
        cached = entry.kind == "kv_cache"
        sides[1].append(sides[0][-1] if cached else place(np.zeros(shape, entry.dtype)))
    calls = []
    for past, present in (sides, sides[::-1]):
        binding = session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for entry, before, after in zip(manifest.state, past, present, strict=True):
            binding.bind_ortvalue_input(entry.input, before)
            binding.bind_ortvalue_output(entry.output, after)
        if sample:
            binding.bind_ortvalue_output("next_token", token)
        calls.append(partial(session.run_with_iobinding, binding))
    if manifest.has_cache:  # in the middle of the context, as a text is on average
        inputs["past_length"][0] = _middle(generator)
    return calls[0], calls[1], inputs["tokens"], inputs["uniform"]


def _middle(generator: Generator) -> int:
    return (generator.manifest.context_length or 0) // 4


def measure_overhead(
    generator: Generator, sampling: SamplingParams, *, prompt: str, rounds: int, tokens: int
) -> dict[str, list[float]]:
    """Microseconds per token of the three ways, a list for each with one figure a round.

    Raises:
        InputError: if the generator does not run on onnxruntime.
    """
    if generator.session.provider == "numpy":
        raise InputError("provider is numpy; allowed is onnxruntime, whose bare session is compared with")
    bare, text = bare_calls(generator, sampling), list[int]()
    while len(text) < tokens:
        text += generator.generate(prompt, seed=len(text), **asdict(sampling)).tokens or (0,)
    result: dict[str, list[float]] = {"generate": [], "step": [], "bare": []}
    for number in range(rounds + 1):
        figures = {
            "generate": _generate_us(generator, sampling, prompt, tokens, number * tokens),
            "step": step_us(generator, sampling, tokens),
            "bare": _bare_us(bare, text, tokens),
        }
        if number:  # the first is to warm up
            for name, value in figures.items():
                result[name].append(value)
    return result


def _generate_us(
    generator: Generator, sampling: SamplingParams, prompt: str, tokens: int, seed: int
) -> float:
    seconds, count = 0.0, 0
    limit = generator.manifest.context_length
    longest = (
        _LONGEST if limit is None else limit // 2
    )  # on average a quarter of the context, as the bare one
    while count < tokens:
        found = generator.generate(prompt, max_new_tokens=longest, seed=seed, **asdict(sampling))
        seconds, seed = seconds + found.timings.decode_s, seed + 1
        count += len(found.tokens) - (found.finish_reason == "length")  # steps after the first token
    return seconds / count * 1e6


def step_us(generator: Generator, sampling: SamplingParams, tokens: int) -> float:
    """Microseconds of ``session.step``."""
    session, seconds, left = generator.session, 0.0, tokens
    limit = generator.manifest.context_length
    while left > 0:
        state = session.new_state()
        token = session.step(0, state, sampling, 0.5)  # binds the buffers
        draws = np.random.default_rng(left).random(left if limit is None else limit // 2).tolist()
        began = perf_counter()
        for uniform in draws:
            token = session.step(token, state, sampling, uniform)
        seconds, left = seconds + perf_counter() - began, left - len(draws)
    return seconds / (tokens - left) * 1e6


def _bare_us(bare: Bare, text: Sequence[int], tokens: int) -> float:
    """Runs alone are timed; tokens and random numbers change between them, as the cost of sampling does."""
    one, two, token, uniform = bare
    clock, seconds, size = perf_counter, 0.0, len(text)
    draws = np.random.default_rng(0).random(tokens, np.float32).tolist()
    for at in range(0, tokens - 1, 2):
        token[0, 0], uniform[0] = text[at % size], draws[at]
        began = clock()
        one()
        seconds += clock() - began
        token[0, 0], uniform[0] = text[(at + 1) % size], draws[at + 1]
        began = clock()
        two()
        seconds += clock() - began
    return seconds / (tokens // 2 * 2) * 1e6


def measure_endurance(
    generator: Generator, sampling: SamplingParams, *, prompt: str, tokens: int
) -> dict[str, list[float]]:
    """Resident bytes and microseconds per token (prefill and all) after every 20th part of the tokens."""
    result: dict[str, list[float]] = {"tokens": [], "texts": [], "resident_bytes": [], "us_per_token": []}
    seed = total = texts = 0
    for part in range(1, _PARTS + 1):
        began, before = perf_counter(), total
        while total < tokens * part // _PARTS:
            found = generator.generate(prompt, max_new_tokens=_LONGEST, seed=seed, **asdict(sampling))
            total, seed, texts = total + max(len(found.tokens), 1), seed + 1, texts + 1
        seconds = perf_counter() - began
        gc.collect()
        result["tokens"].append(total)
        result["texts"].append(texts)
        result["resident_bytes"].append(resident_bytes())
        result["us_per_token"].append(seconds / (total - before) * 1e6)
    return result


def _table(record: Mapping[str, Any]) -> str:
    medians = {name: median(values) for name, values in record["us"].items()}
    least = {name: min(values) for name, values in record["us"].items()}
    lines = [
        "| way | µs per token, median of rounds | over the bare one | best round | over the bare one |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, value in medians.items():
        figures = f"{value:.1f} | {value - medians['bare']:+.1f} | {least[name]:.1f}"
        lines.append(f"| {name} | {figures} | {least[name] - least['bare']:+.1f} |")
    if run := record["endurance"]:
        memory, speed = np.array(run["resident_bytes"]) / 1e6, np.array(run["us_per_token"])
        settled = memory[1:]
        lines += [
            "",
            f"{run['tokens'][-1]:,} tokens in {run['texts'][-1]:,} texts: "
            f"{settled[0]:.1f} MB resident after the first 10 %, then "
            f"{settled.min():.1f} to {settled.max():.1f} MB, at the end {settled[-1]:.1f} MB; "
            f"{np.median(speed[:5]):.1f} µs per token in the first quarter, "
            f"{np.median(speed[-5:]):.1f} in the last.",
        ]
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    made = parser("edgetext_bench.overhead", __doc__)
    made.add_argument("bundle", type=Path, metavar="MODEL.etx")
    made.add_argument("--prompt", default="Return the")
    made.add_argument("--temperature", type=float, help="default: the bundle's own; so for the next two")
    made.add_argument("--top-k", type=int)
    made.add_argument("--top-p", type=float)
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--round-tokens", type=int, default=4000, help="tokens of each way in a round")
    made.add_argument("--tokens", type=int, default=0, help="tokens of the endurance run (default: none)")

    def measure(options: Any) -> dict[str, Any]:
        generator = Generator.load(options.bundle, threads=1)
        changes = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p")}
        given = {name: value for name, value in changes.items() if value is not None}
        sampling, prompt = replace(generator.defaults.sampling, **given), options.prompt
        us = measure_overhead(
            generator, sampling, prompt=prompt, rounds=options.rounds, tokens=options.round_tokens
        )
        endurance = None
        if options.tokens:
            endurance = measure_endurance(generator, sampling, prompt=prompt, tokens=options.tokens)
        return {"sampling": asdict(sampling), "us": us, "endurance": endurance}

    return run(made, measure, _table)


if __name__ == "__main__":
    sys.exit(main())
