"""What a loaded bundle is timed at: steps, steps deep in a context, batches, the parts of a step."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgetext_bench.overhead import bare_calls
from edgetext_runtime import Generator, SamplingParams

STEPS = 32
"""Steps at every depth and of every batch."""
_SETTLE = 2


def session_facts(generator: Generator) -> dict[str, Any]:
    """The options a session runs with, its build of onnxruntime, and the name of its device."""
    session: Any = generator.session
    facts: dict[str, Any] = {"provider": session.provider, "threads": session.threads}
    if session.provider == "numpy":
        return facts
    options = session._session.get_session_options()
    facts |= {
        "spinning": options.get_session_config_entry("session.intra_op.allow_spinning") == "1",
        "memory_pattern": options.enable_mem_pattern,
        "memory_arena": options.enable_cpu_mem_arena,
        "execution": options.execution_mode.name,
        "graph_optimization": options.graph_optimization_level.name,
        "build": " ".join(session.ort.get_build_info().split()),
    }
    if session.provider.startswith("CUDA"):
        facts["device"] = _gpu_name()
    return facts


def _gpu_name() -> str | None:
    import shutil
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[0] if lines else None


def timed_steps(
    generator: Generator, prompt: str, sampling: Mapping[str, Any], tokens: int, seed: int
) -> list[int]:
    """Nanoseconds of each ``session.step``, past ends of text; at the end of the context it begins again."""
    session, manifest = generator.session, generator.manifest
    params = SamplingParams(**sampling)
    ids = np.array([[manifest.eos_id, *generator.tokenizer.encode(prompt)]], dtype=np.int64)
    uniforms = np.random.Generator(np.random.PCG64(seed)).random(tokens, dtype=np.float32)
    limit = manifest.context_length or sys.maxsize
    state, token = None, 0
    samples = []
    for uniform in uniforms.tolist():
        if state is None or state.length >= limit:
            state = session.new_state()
            drawn = np.array([uniform], dtype=np.float32)
            token = int(session.run(ids, state, sampling=params, uniform=drawn).next_token[0])
            token = session.step(token, state, params, uniform)  # binds its buffers: not a token's cost
        begin = perf_counter_ns()
        token = session.step(token, state, params, uniform)
        samples.append(perf_counter_ns() - begin)
    return samples


def sweep(
    generator: Generator,
    sampling: Mapping[str, Any],
    *,
    depths: Sequence[int],
    batches: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Nanoseconds per step after so many tokens, and per step of so many sequences at once.

    Depths that do not fit the context with the steps after them are left out; ids are drawn at random, as the
    time does not depend on them.
    """
    manifest, params = generator.manifest, SamplingParams(**sampling)
    room = (manifest.context_length or sys.maxsize) - STEPS - _SETTLE
    fitting = [depth for depth in depths if depth <= room]
    random = np.random.Generator(np.random.PCG64(seed))
    depth_ns = [_at_depth(generator, params, depth, random) for depth in fitting]
    steps = max(1, min(STEPS, room + STEPS))
    batch_ns = [_in_batch(generator, params, batch, steps, random) for batch in batches]
    return {"depths": fitting, "depth_ns": depth_ns, "batches": list(batches), "batch_ns": batch_ns}


def _at_depth(
    generator: Generator, params: SamplingParams, depth: int, random: np.random.Generator
) -> list[int]:
    session, vocab = generator.session, generator.manifest.vocab_size
    state, drawn = session.new_state(), np.full(1, 0.5, np.float32)
    ids = random.integers(vocab, size=(1, depth))
    token = int(session.run(ids, state, sampling=params, uniform=drawn).next_token[0])
    samples = []
    for uniform in random.random(STEPS + _SETTLE, np.float32).tolist():
        begin = perf_counter_ns()
        token = session.step(token, state, params, uniform)
        samples.append(perf_counter_ns() - begin)
    return samples[_SETTLE:]


def _in_batch(
    generator: Generator, params: SamplingParams, batch: int, steps: int, random: np.random.Generator
) -> list[int]:
    session = generator.session
    state = session.new_state(batch)
    tokens = random.integers(generator.manifest.vocab_size, size=(batch, 1))
    samples = []
    for _ in range(steps + _SETTLE):
        drawn = random.random(batch, np.float32)
        begin = perf_counter_ns()
        tokens = session.run(tokens, state, sampling=params, uniform=drawn).next_token[:, None]
        samples.append(perf_counter_ns() - begin)
    return samples[_SETTLE:]


def split(generator: Generator, sampling: Mapping[str, Any], *, steps: int) -> dict[str, Any]:
    """Nanoseconds per step of the bare graph, whole and without the operators that sample, in turns.

    Empty where there is no onnxruntime.
    """
    samples: dict[str, list[int]] = {"bare_ns": [], "forward_ns": []}
    if generator.session.provider == "numpy":
        return samples
    params = SamplingParams(**sampling)
    calls = [(name, bare_calls(generator, params, sample=name == "bare_ns")) for name in samples]
    draws = np.random.default_rng(0).random(steps + _SETTLE, np.float32).tolist()
    for at, draw in enumerate(draws):
        for name, (one, two, token, uniform) in calls:
            token[0, 0], uniform[0] = at % generator.manifest.vocab_size, draw
            call = two if at % 2 else one
            begin = perf_counter_ns()
            call()
            taken = perf_counter_ns() - begin
            if at >= _SETTLE:
                samples[name].append(taken)
    return samples
