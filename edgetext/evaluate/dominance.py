"""Who dominates whom: quality at every matched diversity, over whole temperature sweeps (Caccia et al. 2020).

A sweep is a line of (reverse-LM score, LM score), lower is better on both. A model's frontier at x is the
best LM score it reaches with a reverse-LM score of at most x; lines between neighbouring temperatures count
as reached. Two models are compared, per seed, where the sweeps of all seeds of both have points on either
side: beyond the coldest or hottest temperature nothing was measured.
"""

from __future__ import annotations

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


def compare_sweeps(name: str, ours: Sequence[Sweep], other: str, theirs: Sequence[Sweep]) -> Dominance:
    """Compare two models by their sweeps, one per seed, the same seeds for both."""
    low = max(min(x for x, _ in sweep) for sweep in (*ours, *theirs))
    high = min(max(x for x, _ in sweep) for sweep in (*ours, *theirs))
    if not (np.isfinite(low) and np.isfinite(high)) or high < low:
        line = f"{name} cannot be compared with {other}: their reverse-LM scores do not meet"
        return Dominance("cannot be compared with", line, (), (), ())
    grid = np.linspace(low, high, GRID)
    gains = np.array(
        [frontier(theirs[i], grid) - frontier(ours[i], grid) for i in range(min(len(ours), len(theirs)))]
    )
    mean = gains.mean(0)
    error = gains.std(0, ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.zeros(GRID)
    better, worse = mean > BEYOND_NOISE * error + 1e-9, mean < -BEYOND_NOISE * error - 1e-9
    if better.any() and not worse.any():
        verdict, where = "dominates", better
    elif worse.any() and not better.any():
        verdict, where = "is dominated by", worse
    elif better.any():
        verdict, where = "crosses", better
    else:
        verdict, where = "equals", np.zeros(GRID, bool)
    line = f"{name} {verdict} {other}: {_figures(grid, mean, error, where, len(gains))}"
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
    at = int(np.argmax(np.abs(mean)))
    spread = f" ± {error[at]:.3f}" if seeds > 1 else ""
    span = f"reverse-LM {grid[0]:.3f} to {grid[-1]:.3f}"
    share = f"beyond the noise on {100 * where.mean():.0f} % of it, " if where.any() else ""
    change = "lower" if mean[at] > 0 else "higher"
    return (
        f"over {span}, {share}LM score {abs(mean[at]):.3f}{spread} {change} at {grid[at]:.3f} "
        f"({seeds} seed{'s' * (seeds > 1)})"
    )
