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

from edgetext_bench.record import Record, Run, Sustained

RESAMPLES = 1000
CONFIDENCE = 0.95
_MOST_AT_ONCE = 2_000_000
"""Samples counted at once, which bounds the memory."""
DRIFT = 0.1
"""Share by which the last quarter of a sustained window must be slower than the first to be called slower."""

Rounds = Sequence[Sequence[float] | NDArray[Any]]
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
    ttft_s: tuple[Figure, ...]
    """For every prompt of the run."""
    token_s: dict[str, Figure] | None
    """``p50``, ``p90``, ``p99`` of the time between pieces of the stream."""
    step_s: dict[str, Figure]
    """``p50``, ``p90``, ``p99`` of the session alone."""
    tokens_per_s: Figure | None
    """Rate of the stream after its first piece: median over the rounds."""
    paces: Figure | None
    """Median step over the median time of the fixed piece of work of the same round."""
    depth_s: tuple[Figure, ...]
    """A step after so many tokens, for every depth of the run."""
    batch_token_s: tuple[Figure, ...]
    """A step of so many sequences, over their number, for every batch of the run."""
    split_s: dict[str, float] | None
    """Where a token's time goes: ``forward``, ``sample``, ``host`` (Python, text), and ``tokenise`` (a
    prompt's token). The first three add up to the stream's median."""
    roofline: Roofline | None
    """How near the session comes to what reading its weights allows."""
    sustained: Endurance | None
    """What became of the speed in the sustained window."""


@dataclass(frozen=True)
class Roofline:
    """Bytes a token reads, against how fast this machine reads as many."""

    bytes_per_token: int
    read_bps: float
    fraction: float
    """Bytes per token × steps per second ÷ ``read_bps``."""


@dataclass(frozen=True)
class Endurance:
    """A sustained window in short."""

    seconds: float
    tokens_per_s: float
    drift: float
    """Median step of the last quarter over that of the first."""
    state: str
    """``steady``; ``slower`` (by more than ``DRIFT``); ``throttled`` (slower, and the processor said why)."""
    joules_per_token: float | None


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
        ttft_s=tuple(quantile([r.ttft_s[i] for r in run.rounds]) for i in range(len(run.prompts))),
        token_s=_percentiles(stream) if stream else None,
        step_s=_percentiles([r.step_ns for r in run.rounds]),
        tokens_per_s=quantile(rates) if rates else None,
        paces=paced_ratio(run),
        depth_s=tuple(
            quantile([_seconds(r.depth_ns[i]) for r in run.rounds]) for i in range(len(run.depths))
        ),
        batch_token_s=tuple(
            quantile([_seconds(r.batch_ns[i], batch) for r in run.rounds])
            for i, batch in enumerate(run.batches)
        ),
        split_s=_split(run),
        roofline=roofline(run),
        sustained=_endurance(run.sustained),
    )


def paced_ratio(run: Run) -> Figure | None:
    """Median step over the median pace of the same rounds; None in a record that has no pace."""
    if not all(r.pace_ns for r in run.rounds):
        return None
    return ratio([r.step_ns for r in run.rounds], [r.pace_ns for r in run.rounds])


def roofline(run: Run) -> Roofline | None:
    """Compare the session's median step with the time it takes to read what it reads."""
    rates = [r.read_bps for r in run.rounds if r.read_bps]
    if run.weight_bytes is None or not rates:
        return None
    size = run.weight_bytes + run.cache_bytes * len(run.rounds[0].step_ns) // 2
    bandwidth = float(np.median(rates))
    step = quantile([_seconds(r.step_ns) for r in run.rounds]).value
    return Roofline(size, bandwidth, size / step / bandwidth)


def _split(run: Run) -> dict[str, float] | None:
    if not run.bare_ns or not all(r.tokenise_ns for r in run.rounds):
        return None
    bare, forward = (float(np.median(samples)) * 1e-9 for samples in (run.bare_ns, run.forward_ns))
    stream = [r.stream_ns or r.step_ns for r in run.rounds]
    token = quantile([_seconds(samples) for samples in stream]).value
    encode = quantile([_seconds(r.tokenise_ns, run.prompts[-1]) for r in run.rounds]).value
    forward = min(forward, bare)
    return {
        "tokenise": encode,
        "forward": forward,
        "sample": bare - forward,
        "host": max(0.0, token - bare),
    }


def _endurance(window: Sustained | None) -> Endurance | None:
    if window is None or not window.p50_ns:
        return None
    quarter = max(1, len(window.p50_ns) // 4)
    drift = float(np.median(window.p50_ns[-quarter:]) / np.median(window.p50_ns[:quarter]))
    clocks = [mhz for mhz in window.mhz if mhz is not None]
    lower = len(clocks) == len(window.mhz) and clocks[-1] < (1 - DRIFT) * clocks[0]
    heat = bool(window.throttle_events) or lower
    state = "steady" if drift <= 1 + DRIFT else "throttled" if heat else "slower"
    total = sum(window.tokens)
    energy = None if window.joules is None else window.joules / total
    return Endurance(window.end_s[-1], total / window.end_s[-1], drift, state, energy)


def _seconds(nanoseconds: Sequence[float], parts: int = 1) -> list[float]:
    return [value * 1e-9 / parts for value in nanoseconds]


def speedups(record: Record) -> list[Speedup]:
    """Compare every bundle with the reference: the first fp32 one, else the first one given."""
    precisions = [bundle.precision for bundle in record.bundles]
    reference = precisions.index("fp32") if "fp32" in precisions else 0
    base = {(run.provider, run.threads): run for run in record.runs if run.bundle == reference}
    result = []
    for run in record.runs:
        if run.bundle == reference or (run.provider, run.threads) not in base:
            continue
        slow = base[run.provider, run.threads].rounds
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
    value = float(np.quantile(np.concatenate([np.asarray(samples) for samples in rounds]), q))
    if len(rounds) < 2:
        return Figure(value)
    return _interval(value, _resampled(rounds, _draws(len(rounds)), q))


def ratio(numerator: Rounds, denominator: Rounds) -> Figure:
    """Return the ratio of two medians whose rounds were taken side by side, with its interval."""
    count = min(len(numerator), len(denominator))
    sides = [[np.asarray(samples) for samples in side[:count]] for side in (numerator, denominator)]
    above, below = (float(np.median(np.concatenate(side))) for side in sides)
    if count < 2:
        return Figure(above / below)
    draws = _draws(count)
    return _interval(above / below, _resampled(sides[0], draws) / _resampled(sides[1], draws))


def _draws(rounds: int) -> NDArray[np.int64]:
    """Which rounds each resample takes, [RESAMPLES, rounds]; the same every time."""
    return np.random.Generator(np.random.PCG64(0)).integers(rounds, size=(RESAMPLES, rounds))


def _resampled(rounds: Rounds, draws: NDArray[np.int64], q: float = 0.5) -> Floats:
    """A quantile of the pooled samples of every resample, [RESAMPLES].

    All samples are sorted once; a resample only says how often each counts.
    """
    samples = np.concatenate([np.asarray(values, np.float64) for values in rounds])
    order = samples.argsort(kind="stable")
    origin = np.repeat(np.arange(len(rounds)), [len(values) for values in rounds])[order]
    times = (draws[:, :, None] == np.arange(len(rounds))).sum(axis=1)  # [RESAMPLES, rounds]
    step = max(1, _MOST_AT_ONCE // len(samples))
    found = []
    for start in range(0, len(times), step):
        reached = times[start : start + step, origin].cumsum(axis=1)  # [step, samples]
        found.append(samples[order][(reached >= q * reached[:, -1:]).argmax(axis=1)])
    return np.concatenate(found)


def _interval(value: float, resampled: Floats) -> Figure:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(value, float(low), float(high))


def _percentiles(rounds_ns: Sequence[Sequence[int]]) -> dict[str, Figure]:
    seconds = [_seconds(samples) for samples in rounds_ns]
    return {f"p{percent}": quantile(seconds, percent / 100) for percent in (50, 90, 99)}


def bootstrap(sides: Sequence[int], statistic: Callable[[Sequence[NDArray[np.int64]]], float]) -> Figure:
    """A statistic of so many rounds on every side, with its interval; sides are drawn independently."""
    value = statistic([np.arange(rounds) for rounds in sides])
    if min(sides) < 2:
        return Figure(value)
    random = np.random.Generator(np.random.PCG64(0))
    draws = [random.integers(rounds, size=(RESAMPLES, rounds)) for rounds in sides]
    return _interval(value, np.array([statistic(picks) for picks in zip(*draws, strict=True)]))
