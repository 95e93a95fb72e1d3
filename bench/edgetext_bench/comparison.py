"""What changed between two measurements, and whether it is beyond noise.

Two records of one machine are compared by their *paced* ratios: each side's median step over the median
time of a fixed piece of work that took its turn in the same round. A machine that has become slower as a
whole moves both, so the quotient holds; a bundle that has become slower does not. Two bundles of one record
took turns themselves, and are compared directly, round by round. Intervals are bootstraps over rounds, each
of which had a process of its own.

A difference counts if it is above 5 % (MLPerf Mobile's replicability; 15 % for first token and cold start,
which hang on caches of the system) and its interval does not reach 1. Figures of different machines are not
compared at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgetext_bench.record import Record, Run
from edgetext_bench.summary import CONFIDENCE, Figure, bootstrap
from edgetext_bench.wording import Block, Table, markdown, threads_text, three_digits
from edgetext_runtime.errors import InputError

NOISE = 0.05
"""Ratios nearer to 1 than this are equal, whatever their interval."""
PROCESS_NOISE = 0.15
"""The same for what happens once a process, which caches of the system make faster or slower."""
_MACHINE = ("cpu", "machine", "cpu_flags", "cores", "memory_bytes", "system")
_SOFTWARE = ("python", "numpy", "onnxruntime", "edgetext_runtime", "usable_cores", "cpu_quota", "governor")
Samples = Callable[[Run], Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Change:
    """One figure of B over that of A."""

    what: str
    """Its name."""
    before: float
    """A's median, in µs."""
    after: float
    """B's."""
    ratio: Figure
    """B over A, with its interval; paced where the records have a pace."""
    paced: bool
    """Whether the pace of the machine has been divided out."""
    noise: float = NOISE
    """How near to 1 is equal."""

    @property
    def verdict(self) -> str:
        """``equal``, ``slower``, ``faster``, or ``unclear``: more than noise, but so is its interval."""
        value, low, high = self.ratio.value, self.ratio.low, self.ratio.high
        if low is None or high is None:
            return "equal" if abs(value - 1) <= self.noise else "unclear"
        if abs(value - 1) <= self.noise:
            return "equal" if max(1 - low, high - 1) <= 2 * self.noise else "unclear"
        if low <= 1 <= high:
            return "unclear"
        return "slower" if value > 1 else "faster"


@dataclass(frozen=True)
class Comparison:
    """One bundle at one thread count in two measurements."""

    name: str
    threads: int
    provider: str
    changes: tuple[Change, ...]

    @property
    def verdict(self) -> str:
        """That of the session's step, which is the steadiest figure."""
        return self.changes[0].verdict


def compare_records(before: Record, after: Record) -> list[Comparison]:
    """Compare each bundle with the one of the same place in the other record, at equal thread counts.

    Raises:
        InputError: if they are of different machines or labels, or have nothing in common.
    """
    for name in _MACHINE:
        one, other = getattr(before.environment, name), getattr(after.environment, name)
        if one != other:
            raise InputError(
                f"the records are of different machines ({name}: {one} and {other}), whose figures are not "
                "compared; `edgetext bench report` shows them side by side"
            )
    if (before.label, before.on) != (after.label, after.on) and not _both_measured(before, after):
        raise InputError(
            f"one record is {before.label} ({before.on}), the other {after.label} ({after.on}): "
            "measure both alike"
        )
    pairs = list(_pairs(before, after))
    if not pairs:
        raise InputError(
            "the records have no thread count and provider in common: measure with equal --threads"
        )
    return [_comparison(after.bundles[new.bundle].file, old, new, together=False) for old, new in pairs]


def compare_bundles(record: Record) -> list[Comparison]:
    """Compare the second bundle of a record with its first, which took turns."""
    by_case = {(run.bundle, run.provider, run.threads): run for run in record.runs}
    found = []
    for (bundle, provider, threads), old in by_case.items():
        new = by_case.get((1, provider, threads))
        if bundle == 0 and new is not None:
            name = f"{record.bundles[0].file} → {record.bundles[1].file}"
            found.append(_comparison(name, old, new, together=True))
    return found


def differences(before: Record, after: Record) -> list[str]:
    """What else is not the same: bundles, software, settings."""
    found = []
    for one, other in zip(before.bundles, after.bundles, strict=False):
        if one.sha256 != other.sha256:
            found.append(f"bundle: {one.file} ({one.sha256[:12]}) and {other.file} ({other.sha256[:12]})")
    for kind, names in (("environment", _SOFTWARE), ("settings", tuple(vars(before.settings)))):
        for name in names:
            old, new = getattr(getattr(before, kind), name), getattr(getattr(after, kind), name)
            if old != new:
                found.append(f"{name}: {old} and {new}")
    return found


def comparison_text(comparisons: Sequence[Comparison], also: Sequence[str]) -> str:
    """A verdict in words for every pair, then the figures, as Markdown."""
    said = [
        f"**{one.verdict}**: {one.name}, {threads_text(one.threads)}"
        + ("" if one.provider == "cpu" else f", {one.provider}")
        + f": {_percent(one.changes[0].ratio)}"
        for one in comparisons
    ]
    rows = [
        (
            f"{one.name} × {one.threads}",
            change.what,
            three_digits(change.before),
            three_digits(change.after),
            _interval(change.ratio),
            change.verdict,
        )
        for one in comparisons
        for change in one.changes
    ]
    paced = any(change.paced for one in comparisons for change in one.changes)
    how = "of rounds, over the pace of the machine in the same round" if paced else "of rounds"
    blocks: list[Block] = [
        said,
        Table(("bundle × threads", "figure", "A µs", "B µs", "B / A", "verdict"), rows, text_columns=2),
        f"B / A: medians {how}, with a {CONFIDENCE:.0%} bootstrap interval. Within {NOISE:.0%} is equal, "
        f"of first token and cold start within {PROCESS_NOISE:.0%}; unclear asks for more rounds.",
        [f"Also different: {line}" for line in also],
    ]
    return markdown(blocks)


def _both_measured(one: Record, other: Record) -> bool:
    """The same machine over ssh and directly is one machine."""
    return one.label == other.label == "measured"


def _pairs(before: Record, after: Record) -> Iterator[tuple[Run, Run]]:
    known = {(run.bundle, run.provider, run.threads): run for run in before.runs}
    for run in after.runs:
        old = known.get((run.bundle, run.provider, run.threads))
        if old is not None:
            yield old, run


def _comparison(name: str, old: Run, new: Run, *, together: bool) -> Comparison:
    figures: list[tuple[str, Samples]] = [
        ("step", lambda run: [r.step_ns for r in run.rounds]),
        ("token", lambda run: [r.stream_ns for r in run.rounds if r.stream_ns]),
        ("first token", lambda run: [[s * 1e9 for s in r.ttft_s[0]] for r in run.rounds]),
        ("cold start", lambda run: [[start.first_token_s * 1e9] for start in run.starts]),
    ]
    pace = None if together or not all(r.pace_ns for r in (*old.rounds, *new.rounds)) else _pace
    changes = []
    for what, samples in figures:
        one, other = samples(old), samples(new)
        if one and other:
            paces = None if pace is None or what == "cold start" else (pace(old), pace(new))
            ratio = _ratio(one, other, paces, together)
            noise = NOISE if what in ("step", "token") else PROCESS_NOISE
            medians = (_median_us(one), _median_us(other))
            changes.append(Change(what, *medians, ratio, paces is not None, noise))
    return Comparison(name, new.threads, new.provider, tuple(changes))


def _median_us(rounds: Sequence[Sequence[float]]) -> float:
    return float(np.median(np.concatenate([np.asarray(samples) for samples in rounds]))) / 1e3


def _pace(run: Run) -> list[Sequence[float]]:
    return [r.pace_ns for r in run.rounds]


def _ratio(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    paces: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]] | None,
    together: bool,
) -> Figure:
    """Median over rounds of each side's (paced) median; together: of each round's own ratio."""
    one, other = ([float(np.median(s)) for s in side] for side in (before, after))
    if paces is not None:
        one = [value / float(np.median(p)) for value, p in zip(one, paces[0], strict=False)]
        other = [value / float(np.median(p)) for value, p in zip(other, paces[1], strict=False)]
    if together:
        quotients = np.array([b / a for a, b in zip(one, other, strict=True)])
        return bootstrap((len(quotients),), lambda picks: float(np.median(quotients[picks[0]])))
    first, second = np.array(one), np.array(other)
    return bootstrap(
        (len(first), len(second)),
        lambda picks: float(np.median(second[picks[1]]) / np.median(first[picks[0]])),
    )


def _percent(ratio: Figure) -> str:
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value - 1:+.1%} per step"
    return f"{ratio.value - 1:+.1%} [{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}] per step"


def _interval(ratio: Figure) -> str:
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f}"
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
