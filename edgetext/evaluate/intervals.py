"""Means with their uncertainty: a bootstrap over texts within every sample set, and the spread over sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 400
"""Bootstrap resamples; the same seed gives the same interval."""


@dataclass(frozen=True)
class Estimate:
    """One figure of one model."""

    mean: float
    """Mean over the sample sets (seeds)."""
    low: float | None = None
    """2.5th percentile of the bootstrap over texts (Efron 1979); None where texts are no separate parts."""
    high: float | None = None
    """97.5th percentile."""
    deviation: float | None = None
    """Standard deviation over sample sets; None for a single one."""

    def __str__(self) -> str:
        """The figure and half the width of its interval."""
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {(self.high - self.low) / 2:.3f}"


@dataclass(frozen=True)
class Items:
    """A figure as the parts it is a weighted mean of: one part per text."""

    values: Floats
    """Sum of the text's values [N]."""
    weights: Floats
    """What each sum is a sum over [N]: words of the text, or 1."""

    @property
    def mean(self) -> float:
        """The figure: total of the values over total of the weights."""
        return float(self.values.sum() / self.weights.sum())


def items(rows: Sequence[Floats]) -> Items:
    """Parts from per-token values of every text."""
    return Items(np.array([row.sum() for row in rows]), np.array([float(len(row)) for row in rows]))


def estimate(sets: Sequence[Items], seed: int = 0) -> Estimate:
    """Mean over sets, with a bootstrap of the texts within each; at least one set."""
    random = np.random.default_rng(seed)
    draws = np.zeros(RESAMPLES)
    for part in sets:
        n = len(part.values)
        chosen = random.integers(n, size=(RESAMPLES, n))
        draws += part.values[chosen].sum(1) / part.weights[chosen].sum(1)
    low, high = np.percentile(draws / len(sets), (2.5, 97.5))
    means = [part.mean for part in sets]
    return Estimate(float(np.mean(means)), float(low), float(high), _deviation(means))


def plain_estimate(values: Sequence[float]) -> Estimate:
    """Mean and spread over sets of a figure that has no parts."""
    return Estimate(float(np.mean(values)), deviation=_deviation(values))


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
