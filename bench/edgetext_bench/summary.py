"""From raw samples to figures: medians and percentiles, each with a bootstrap interval.

Latencies of one round share the machine's state of that moment, so the unit that is resampled is the round,
not the token (a cluster bootstrap); ratios resample the same rounds on both sides, because round i of all
runs lies close together in time.
Efron & Tibshirani 1993, "An introduction to the bootstrap", chapters 8 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext_bench.record import Record, Run

RESAMPLES = 1000
CONFIDENCE = 0.95

Rounds = Sequence[Sequence[float]]
"""Samples by round."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A statistic with its interval; ``low`` and ``high`` are None where one round cannot give any."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunSummary:
    """The figures of one bundle at one thread count; None where nothing was sampled."""

    bundle: int
    threads: int
    load_s: Figure
    reload_s: Figure
    first_token_s: Figure
    ttft_short_s: Figure
    ttft_long_s: Figure
    token_s: dict[str, Figure] | None
    """``p50``, ``p90``, ``p99`` of the time between pieces of the stream."""
    step_s: dict[str, Figure]
    """``p50``, ``p90``, ``p99`` of the session alone."""
    tokens_per_s: Figure | None
    """Rate of the stream after its first piece: median over the rounds."""


@dataclass(frozen=True)
class Speedup:
    """How many times as fast a bundle decodes as the reference, at the same thread count (medians)."""

    bundle: int
    reference: int
    threads: int
    stream: Figure | None
    """Through ``Generator.stream``."""
    step: Figure
    """Session alone."""


def summarise(run: Run) -> RunSummary:
    """Compute the figures of one run."""
    rates = [[r.stream_tokens / r.stream_decode_s] for r in run.rounds if r.stream_tokens]
    stream = [r.stream_ns for r in run.rounds if r.stream_ns]
    return RunSummary(
        bundle=run.bundle,
        threads=run.threads,
        load_s=quantile([[s.load_s] for s in run.starts]),
        reload_s=quantile([[s.reload_s] for s in run.starts]),
        first_token_s=quantile([[s.first_token_s] for s in run.starts]),
        ttft_short_s=quantile([r.ttft_short_s for r in run.rounds]),
        ttft_long_s=quantile([r.ttft_long_s for r in run.rounds]),
        token_s=_percentiles(stream) if stream else None,
        step_s=_percentiles([r.step_ns for r in run.rounds]),
        tokens_per_s=quantile(rates) if rates else None,
    )


def speedups(record: Record) -> list[Speedup]:
    """Compare every bundle with the reference: the first fp32 one, else the first one given."""
    precisions = [bundle.precision for bundle in record.bundles]
    reference = precisions.index("fp32") if "fp32" in precisions else 0
    base = {run.threads: run for run in record.runs if run.bundle == reference}
    result = []
    for run in record.runs:
        if run.bundle == reference or run.threads not in base:
            continue
        slow = base[run.threads].rounds
        streamed = all(r.stream_ns for r in (*slow, *run.rounds))
        stream = ratio([r.stream_ns for r in slow], [r.stream_ns for r in run.rounds]) if streamed else None
        step = ratio([r.step_ns for r in slow], [r.step_ns for r in run.rounds])
        result.append(Speedup(run.bundle, reference, run.threads, stream, step))
    return result


def summary(record: Record) -> dict[str, Any]:
    """Return all figures as plain data; seconds unless the name says otherwise."""
    return {
        "confidence": CONFIDENCE,
        "runs": [asdict(summarise(run)) for run in record.runs],
        "speedups": [asdict(speedup) for speedup in speedups(record)],
    }


def quantile(rounds: Rounds, q: float = 0.5) -> Figure:
    """Return a quantile of the pooled samples, with its interval."""
    arrays = [np.asarray(samples, dtype=np.float64) for samples in rounds]
    return _bootstrap(
        len(arrays), lambda picks: float(np.quantile(np.concatenate([arrays[i] for i in picks]), q))
    )


def ratio(numerator: Rounds, denominator: Rounds) -> Figure:
    """Return the ratio of two medians whose rounds were taken side by side, with its interval."""
    above = [np.asarray(samples, dtype=np.float64) for samples in numerator]
    below = [np.asarray(samples, dtype=np.float64) for samples in denominator]

    def statistic(picks: Sequence[int]) -> float:
        medians = [np.median(np.concatenate([side[i] for i in picks])) for side in (above, below)]
        return float(medians[0] / medians[1])

    return _bootstrap(min(len(above), len(below)), statistic)


def _percentiles(rounds_ns: Sequence[Sequence[int]]) -> dict[str, Figure]:
    seconds = [[sample * 1e-9 for sample in samples] for samples in rounds_ns]
    return {f"p{percent}": quantile(seconds, percent / 100) for percent in (50, 90, 99)}


def _bootstrap(rounds: int, statistic: Callable[[Sequence[int]], float]) -> Figure:
    value = statistic(range(rounds))
    if rounds < 2:
        return Figure(value)
    picks = np.random.Generator(np.random.PCG64(0)).integers(rounds, size=(RESAMPLES, rounds))
    values: Floats = np.array([statistic(row.tolist()) for row in picks])
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(value, float(low), float(high))
