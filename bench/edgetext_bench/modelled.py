"""What a token would take on another class of devices.

    time = operators · cost of one + bytes of weights and cache / bandwidth

Small students are bound by the first term, large ones by the second. The cost of an operator is one
constant of one machine (the reference: an EPYC of Zen 4, where GRU bundles gave 1.2 to 1.4 µs), divided by
how fast a core is beside that one: here by the pace measured in the same run, elsewhere by public
single-core scores; a core without dot products takes longer over 8-bit weights. ``--on modelled`` measures
this machine too and predicts it by the same formula, so that the error can be seen.

Every figure is a bound with an interval: its lower end takes a core 1.3 times as fast and weights that stay
in caches, its upper end a core 1.6 times as slow and kernels that reach 40 % of the bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgetext_bench.measure import bench
from edgetext_bench.record import Estimate, Record, Run, Settings
from edgetext_bench.summary import summarise
from edgetext_bench.work import Work, cache_bytes_per_token, work_per_token
from edgetext_runtime.bundle import Bundle, read_bundle

OPERATOR_US = 1.3
"""Microseconds of an operator of a step graph on one core of the reference, session and Python included."""
REFERENCE_PACE_NS = 411_000
"""The reference's pace (:func:`roofline.pace`)."""
REFERENCE_SCORE = 1900
"""The reference's Geekbench 6 single-core score, rounded."""
THIS_MACHINE = "this machine"
_FASTER, _SLOWER = 1.3, 1.6
_REACHED = 0.4
"""Share of the bandwidth that kernels reach at worst: 8-bit products of 18 MB of weights on one core."""


@dataclass(frozen=True)
class Device:
    """A class of devices."""

    name: str
    """What it is called."""
    score: float
    """Geekbench 6 single-core score, rounded."""
    memory_bps: float
    """Bytes per second that decoding has been seen to read from memory, or else half of what its memory's
    data sheet gives."""
    source: str
    """Where score and bandwidth are from."""
    weight_ns: Mapping[str, float] = field(default_factory=dict)
    """What an 8-bit weight costs more on a core without dot products, by architecture; none: it has them."""


_EMULATED = (
    "5.7 (LSTM) and 14.6 (blocks) emulated instructions a weight more without dot products, at 2.7 G/s"
)
_WITHOUT_DOT = {"lstm": 2.1, "gru": 5.4, "transformer": 5.4}
DEVICES = (
    Device(
        "Raspberry Pi 4", 300, 3.5e9,
        f"1.8 GHz Cortex-A72; TinyLlama 1.1B Q8_0 at 3 tokens/s reads 3.5 GB/s; {_EMULATED}", _WITHOUT_DOT,
    ),
    Device("Raspberry Pi 5", 800, 10e9, "2.4 GHz Cortex-A76; 0.53 GB of Q8_0 at 19.9 tokens/s"),
    Device("mid-range phone", 1000, 18e9, "Snapdragon 7 Gen 2; llama2.c 15M in fp32 at 302 tokens/s"),
    Device("high-end phone", 2200, 38e9, "Snapdragon 8 Gen 3; half of LPDDR5X-9600's 77 GB/s"),
    Device("Jetson Orin Nano (CPU)", 650, 25e9, "Cortex-A78AE; a quarter of the memory's 102 GB/s"),
)  # fmt: skip
"""Public figures, rounded; one thread."""


def bench_modelled(
    paths: Sequence[Path],
    settings: Settings,
    *,
    progress: Callable[[str], None] | None = None,
    command: str | None = None,
) -> Record:
    """Measure bundles here, and estimate them here and on classes of devices; arguments as for ``bench``."""
    record = bench(paths, settings, progress=progress, command=command)
    return replace(record, on="modelled", estimates=tuple(estimates(record, paths)))


def estimates(record: Record, paths: Sequence[Path]) -> list[Estimate]:
    """Estimates: this machine at every thread count measured, then every device at one thread."""
    tokens = record.settings.tokens
    bundles = [read_bundle(path) for path in paths]
    found = [
        _here(run, bundles[run.bundle], tokens)
        for run in record.runs
        if run.provider == "cpu" and run.rounds[0].read_bps
    ]
    for device in DEVICES:
        for number, bundle in enumerate(bundles):
            work, size = _work(bundle, tokens)
            quantised = bundle.manifest.precision != "fp32"
            weights = bundle.manifest.parameters if quantised else 0
            times = predict(
                work.nodes,
                size,
                slowness=REFERENCE_SCORE / device.score,
                read_bps=device.memory_bps,
                extra_us=weights * device.weight_ns.get(bundle.manifest.architecture, 0.0) / 1e3,
            )
            found.append(Estimate(number, device.name, 1, *times))
    return found


def predict(
    operators: int, size: int, *, slowness: float, read_bps: float, extra_us: float = 0.0
) -> tuple[float, float, float]:
    """Microseconds per token, and the ends of its interval.

    Args:
        operators: that run for a token.
        size: bytes that it reads.
        slowness: how many times as long an operator takes as on the reference.
        read_bps: bytes per second.
        extra_us: what arithmetic takes beyond that.
    """
    work_us, read_us = operators * OPERATOR_US * slowness + extra_us, size / read_bps * 1e6
    return work_us + read_us, work_us / _FASTER, work_us * _SLOWER + read_us / _REACHED


def _here(run: Run, bundle: Bundle, tokens: int) -> Estimate:
    work, size = _work(bundle, tokens)
    pace = float(np.median([np.median(r.pace_ns) for r in run.rounds]))
    bandwidth = float(np.median([r.read_bps for r in run.rounds if r.read_bps]))
    times = predict(work.nodes, size, slowness=pace / REFERENCE_PACE_NS, read_bps=bandwidth)
    measured = summarise(run).step_s["p50"].value * 1e6
    return Estimate(run.bundle, THIS_MACHINE, run.threads, *times, measured)


def _work(bundle: Bundle, tokens: int) -> tuple[Work, int]:
    """Operators and bytes of a token, in the middle of a text."""
    work = work_per_token(bundle.members["model.onnx"], bundle.manifest.vocab_size)
    return work, work.weight_bytes + cache_bytes_per_token(bundle.manifest) * tokens // 2
