"""Finished runs side by side: grouped over their seeds, each group measured against its baseline.

What is compared is what a device gets: the perplexity of the exported int8 bundle on the test split.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetext.errors import ConfigError
from edgetext.evaluate.run_figures import RunFigures, canonical, check_comparable, read_runs

BASELINE = "no-teacher"
"""Recipe of the student that was trained without a teacher."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return mean, deviation and the values themselves."""
        return {"mean": self.mean, "deviation": self.deviation, "values": list(self.values)}


@dataclass(frozen=True)
class Gain:
    """How much better a group is than the baseline of its shape."""

    perplexity: float
    """1 - perplexity / baseline's, of the means: 0.2 is a fifth less."""
    nats: float
    """Baseline's mean loss minus the group's, nats per token."""
    deviations: float | None
    """Difference of the mean perplexities over the root of the summed variances; None below two seeds."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed."""

    label: str
    """The recipe, and a number where several groups share it."""
    recipe: str
    differs: Mapping[str, Any]
    """The settings in which the groups of this recipe differ from each other."""
    runs: tuple[RunFigures, ...]
    """By seed."""
    gain: Gain | None
    """None where no baseline of the same shape is at hand, and for that baseline."""
    is_baseline: bool
    """Whether others are measured against this group."""

    def spread(self, figure: str) -> Spread | None:
        """Return a figure of `RunFigures` over the runs; None if a run lacks it."""
        values = [getattr(run, figure) for run in self.runs]
        return None if None in values else Spread(tuple(float(value) for value in values))

    def to_dict(self) -> dict[str, Any]:
        """Return the group as plain JSON values."""
        spreads = {name: self.spread(name) for name in SPREADS}
        return {
            "label": self.label,
            "recipe": self.recipe,
            "differs": dict(self.differs),
            "baseline": self.is_baseline,
            "runs": [run.directory for run in self.runs],
            "seeds": [run.seed for run in self.runs],
            "parameters": self.runs[0].parameters,
            **{name: None if spread is None else spread.to_dict() for name, spread in spreads.items()},
            "gain": None if self.gain is None else vars(self.gain),
        }


SPREADS = (
    *("perplexity", "quantisation_cost", "bundle_bytes", "agreement", "kl_teacher"),
    *("teacher_perplexity", "seconds"),
)
"""Figures that are given over seeds."""


def compare_runs(directories: Sequence[Path]) -> list[Group]:
    """Read runs, refuse what cannot stand in one table, and return their groups, lowest perplexity first.

    Raises:
        CheckpointError: if runs are unfinished or have no int8 bundle; names every command that is missing.
        ConfigError: if their perplexities are not comparable, or two runs are the same experiment.
    """
    runs = read_runs(directories)
    check_comparable(runs)
    return group_runs(runs)


def group_runs(runs: Sequence[RunFigures]) -> list[Group]:
    """Put runs that differ in their seed only together, and every group beside its baseline.

    Raises ConfigError if two runs have the same settings and the same seed: they are one sample, not two.
    """
    cells: dict[str, list[RunFigures]] = {}
    for run in runs:
        cells.setdefault(canonical([run.recipe, run.settings, run.shape]), []).append(run)
    for cell in cells.values():
        _check_seeds(cell)
        cell.sort(key=lambda run: run.seed)
    ordered = sorted(cells.values(), key=lambda cell: _mean_perplexity(cell))
    baselines = _baselines(ordered)
    groups = []
    for cell, label, differs in zip(ordered, _labels(ordered), _differences(ordered), strict=True):
        baseline = baselines.get(canonical(cell[0].shape))
        gain = None if baseline is None or baseline is cell else _gain(cell, baseline)
        groups.append(Group(label, cell[0].recipe, differs, tuple(cell), gain, baseline is cell))
    return groups


def _check_seeds(cell: Sequence[RunFigures]) -> None:
    """Refuse two runs of one experiment with one seed."""
    by_seed: dict[int, str] = {}
    for run in cell:
        if run.seed in by_seed:
            raise ConfigError(
                f"{by_seed[run.seed]} and {run.directory} have the same settings and the same seed "
                f"({run.seed}), so they are one sample, not two; give one of them"
            )
        by_seed[run.seed] = run.directory


def _mean_perplexity(cell: Iterable[RunFigures]) -> float:
    return statistics.fmean(run.perplexity for run in cell)


def _baselines(ordered: Sequence[list[RunFigures]]) -> dict[str, list[RunFigures]]:
    """The best group without a teacher for every shape."""
    found: dict[str, list[RunFigures]] = {}
    for cell in ordered:
        if cell[0].recipe == BASELINE:
            found.setdefault(canonical(cell[0].shape), cell)
    return found


def _gain(cell: Sequence[RunFigures], baseline: Sequence[RunFigures]) -> Gain:
    """Measure a group against its baseline."""
    mine, theirs = (Spread(tuple(run.perplexity for run in part)) for part in (cell, baseline))
    losses = [statistics.fmean(math.log(value) for value in spread.values) for spread in (mine, theirs)]
    deviations = None
    if mine.deviation is not None and theirs.deviation is not None:
        scale = math.hypot(mine.deviation, theirs.deviation)
        deviations = (theirs.mean - mine.mean) / scale if scale else None
    return Gain(1 - mine.mean / theirs.mean, losses[1] - losses[0], deviations)


def _labels(ordered: Sequence[list[RunFigures]]) -> list[str]:
    """Name every group by its recipe, numbered in the table's order where one recipe has several."""
    total = Counter(cell[0].recipe for cell in ordered)
    seen: Counter[str] = Counter()
    labels = []
    for cell in ordered:
        recipe = cell[0].recipe
        seen[recipe] += 1
        labels.append(f"{recipe} {seen[recipe]}" if total[recipe] > 1 else recipe)
    return labels


def _differences(ordered: Sequence[list[RunFigures]]) -> list[dict[str, Any]]:
    """For every group the settings in which the groups of its recipe differ."""
    found = []
    for cell in ordered:
        family = [other[0].settings for other in ordered if other[0].recipe == cell[0].recipe]
        names = dict.fromkeys(name for settings in family for name in settings)
        mine = cell[0].settings
        varied = [n for n in names if len({canonical(settings.get(n)) for settings in family}) > 1]
        found.append({name: mine.get(name) for name in varied})
    return found
