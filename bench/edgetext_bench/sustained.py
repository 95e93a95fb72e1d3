"""Decoding without a pause, and what becomes of the speed: drift, heat, clock, energy."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

from edgetext_bench.energy import EnergyMeter
from edgetext_bench.environment import frequency_mhz, temperature_c, throttle_events
from edgetext_bench.sweeps import timed_steps
from edgetext_runtime import Generator

WINDOW_S = 1.0
"""Length of a window, whose median is kept."""
_STRETCH = 50


def sustain(
    generator: Generator, prompt: str, sampling: Mapping[str, Any], *, seconds: float, seed: int
) -> dict[str, Any]:
    """Decode for so long; return a list for each thing that was read, one entry a window of a second.

    Returns:
        ``end_s``, ``tokens``, ``p50_ns`` (of a step), ``temperature_c``, ``mhz``; and for the whole:
        ``throttle_events`` (new ones), ``joules`` and ``energy_source``, None where they cannot be read.
    """
    lists: dict[str, list[Any]] = {name: [] for name in ("end_s", "tokens", "p50_ns", "temperature_c", "mhz")}
    meter, events = EnergyMeter(), throttle_events()
    began = now = perf_counter()
    meter.sample(now)
    while now - began < seconds:
        samples: list[int] = []
        until = min(perf_counter() + WINDOW_S, began + seconds)
        while perf_counter() < until:
            samples += timed_steps(generator, prompt, sampling, _STRETCH, seed + len(lists["end_s"]))
        now = perf_counter()
        meter.sample(now)
        window = (now - began, len(samples), median(samples), temperature_c(), frequency_mhz())
        for name, value in zip(lists, window, strict=True):
            lists[name].append(value)
    after = throttle_events()
    new = None if events is None or after is None else after - events
    return {**lists, "throttle_events": new, "joules": meter.joules(), "energy_source": meter.source}
