"""``python -m edgetext_runtime bench MODEL.etx``: load, first token, time per token, memory."""

from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .generator import Generator

_STEPS = 1000


def figures(model: str, **where: Any) -> dict[str, Any]:
    """Measure a bundle, given as to ``Generator.load``; the first half of the steps warms up."""
    began = perf_counter()
    generator = Generator.load(model, **where)
    loaded = perf_counter()
    generator.generate(max_new_tokens=1)
    first = perf_counter()
    session, sampling = generator.session, generator.defaults.sampling
    state, token, samples = session.new_state(), 0, list[float]()
    for n in range(_STEPS):
        if state.length == generator.manifest.context_length:
            state = session.new_state()
        start = perf_counter()
        token = session.step(token, state, sampling, n / _STEPS)
        samples.append(perf_counter() - start)
    found: dict[str, Any] = {"load_ms": (loaded - began) * 1e3, "first_token_ms": (first - loaded) * 1e3}
    for share in (50, 90, 99):
        found[f"p{share}_us"] = float(np.percentile(samples[_STEPS // 2 :], share)) * 1e6
    with suppress(OSError), Path("/proc/self/status").open() as status:
        found["peak_mb"] = int(status.read().split("VmHWM:")[1].split()[0]) / 1e3
    return {**found, "provider": session.provider, "threads": session.threads}
