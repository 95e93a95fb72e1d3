"""Who dominates whom: quality at every matched diversity, over whole temperature sweeps (Caccia et al. 2020).

A sweep is a line of (reverse-LM score, LM score), lower is better on both. A model's frontier at x is the
best LM score it reaches with a reverse-LM score of at most x; lines between neighbouring temperatures count
as reached. Two models are compared, per seed, where the sweeps of all seeds of both have points on either
side: beyond the coldest or hottest temperature nothing was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Sweep = Sequence[tuple[float, float]]
"""Points (reverse-LM score, LM score) in the order of their temperatures."""
GRID = 25
"""Reverse-LM scores at which two frontiers are compared."""
BEYOND_NOISE = 2.0
"""Standard errors that a difference must have to count as one."""


@dataclass(frozen=True)
class Dominance:
    """How one model's frontier lies to another's."""

    verdict: str
    """``dominates``, ``is dominated by``, ``crosses``, ``equals``, or ``cannot be compared with``."""
    line: str
    """The same with figures, in one line."""
    grid: tuple[float, ...]
    """Reverse-LM scores compared at."""
    gain: tuple[float, ...]
    """LM score of the other minus this one's at each: above 0, this one writes better text."""
    error: tuple[float, ...]
    """Standard error of each over the seeds; 0 for a single one."""


def frontier(sweep: Sweep, grid: Floats) -> Floats:
    """Best LM score at a reverse-LM score of at most each x of the grid; inf where none is reached."""
    points = np.array([point for point in sweep if np.isfinite(point).all()], float).reshape(-1, 2)
    best = np.full(len(grid), np.inf)
    for (x0, y0), (x1, y1) in zip(points, np.concatenate([points[1:], points[-1:]]), strict=True):
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        reached = grid >= x0 - 1e-12
        share = np.clip((grid - x0) / (x1 - x0), 0, 1) if x1 > x0 else np.ones(len(grid))
        here = np.minimum(y0, y0 + share * (y1 - y0))
        if x1 == x0:
            here = np.full(len(grid), min(y0, y1))
        best = np.where(reached, np.minimum(best, here), best)
    return best


def matched_gains(ours: Sequence[Sweep], theirs: Sequence[Sweep]) -> tuple[Floats, Floats]:
    """Second score of theirs minus ours where the first is the same: grid [X] and gains [seeds,X].

    The grid spans what all sweeps of both reach. Where the two do not meet it is one point, the lowest first
    score that both reach: there the model with lower ones may be as good as anywhere on its sweep. Empty
    where a sweep has no finite score.
    """
    reached = [[x for x, y in sweep if math.isfinite(x + y)] for sweep in (*ours, *theirs)]
    if not all(reached):
        return np.empty(0), np.empty((len(ours), 0))
    low, high = max(map(min, reached)), min(map(max, reached))
    grid = np.linspace(low, high, GRID) if high > low else np.array([low])
    pairs = zip(ours, theirs, strict=False)
    return grid, np.array([frontier(their, grid) - frontier(our, grid) for our, their in pairs])


def standard_error(values: Floats) -> Floats:
    """Standard error of the mean over the first axis; 0 for a single value."""
    if len(values) < 2:
        return np.zeros(values.shape[1:])
    return np.asarray(values.std(0, ddof=1) / len(values) ** 0.5)


def compare_sweeps(name: str, ours: Sequence[Sweep], other: str, theirs: Sequence[Sweep]) -> Dominance:
    """Compare two models by their sweeps, one per seed, the same seeds for both."""
    grid, gains = matched_gains(ours, theirs)
    if not len(grid):
        line = f"{name} cannot be compared with {other}: a sweep has no finite score"
        return Dominance("cannot be compared with", line, (), (), ())
    mean, error = gains.mean(0), standard_error(gains)
    better, worse = mean > BEYOND_NOISE * error + 1e-9, mean < -BEYOND_NOISE * error - 1e-9
    if better.any() and not worse.any():
        verdict, where = "dominates", better
    elif worse.any() and not better.any():
        verdict, where = "is dominated by", worse
    elif better.any():
        verdict, where = "crosses", better
    else:
        verdict, where = "equals", np.zeros(len(grid), bool)
    swapped = [[[(y, x) for x, y in sweep] for sweep in sweeps] for sweeps in (ours, theirs)]
    diversity = matched_gains(*swapped)[1].mean(1)
    change, spread = -float(diversity.mean()), float(standard_error(diversity))
    line = (
        f"{name} {verdict} {other}: {_figures(grid, mean, error, where, len(gains))}; at the same LM scores "
        f"its reverse-LM score is {abs(change):.3f} ± {spread:.3f} {'higher' if change > 0 else 'lower'}"
    )
    return Dominance(verdict, line, tuple(grid.tolist()), tuple(mean.tolist()), tuple(error.tolist()))


def compare_all(sweeps: Mapping[str, Sequence[Sweep]]) -> list[Dominance]:
    """Compare every model with every one before it."""
    names = list(sweeps)
    return [
        compare_sweeps(name, sweeps[name], earlier, sweeps[earlier])
        for number, name in enumerate(names)
        for earlier in names[:number]
    ]


def _figures(grid: Floats, mean: Floats, error: Floats, where: NDArray[np.bool_], seeds: int) -> str:
    at = int(np.argmax(np.where(where, np.abs(mean), -1) if where.any() else np.abs(mean)))
    spread = f" ± {error[at]:.3f}" if seeds > 1 else ""
    span = f"reverse-LM {grid[0]:.3f} to {grid[-1]:.3f}"
    share = f"beyond the noise on {100 * where.mean():.0f} % of it, " if where.any() else ""
    change = "lower" if mean[at] > 0 else "higher"
    return (
        f"over {span}, {share}LM score {abs(mean[at]):.3f}{spread} {change} at {grid[at]:.3f} "
        f"({seeds} seed{'s' * (seeds > 1)})"
    )
