"""Which level a weight is rounded to: the one that spares the products with it, not always the nearest.

GPTQ (Frantar et al. 2022, arXiv:2210.17323, algorithm 1): the columns of a matrix are rounded one after the
other, those that read most first, and what rounding one of them does to the products is made up for by the
columns that are still to come. How much of one column another can stand for, the second moments of what the
matrix reads say (`edgetext_export.moments`). Scales are chosen before, from the weights alone, so what is
stored has the same layout and size as with rounding to the nearest level.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Rounding = Literal["nearest", "gptq"]

DAMPING = 0.03
"""Share of the mean moment that is added to the diagonal, against moments of too little text."""
ROWS, COLUMNS = 4096, 64
"""Rows that are rounded at once, and columns after which all that follow are corrected: for the caches."""


def spare_products(
    weight: FloatArray, steps: FloatArray, low: int, high: int, moments: FloatArray
) -> FloatArray:
    """Return levels [N,K] of a matrix whose products with what it reads differ little from its own.

    Args:
        weight: [N,K].
        steps: [N,K], what one level of every weight stands for.
        low: smallest level.
        high: largest level.
        moments: [K,K], means over tokens of x_i x_j for the inputs x [K].
    """
    diagonal = moments.diagonal()
    if not diagonal.any() or not np.isfinite(moments).all():  # nothing was ever read, or what is no number
        return np.clip(np.rint(weight / steps), low, high)
    order = np.argsort(-diagonal, kind="stable")
    factor = _factor(moments[np.ix_(order, order)])
    levels = np.empty_like(weight)
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        levels[rows, order] = _round(weight[rows, order], steps[rows, order], low, high, factor)
    return levels


def _factor(moments: FloatArray) -> FloatArray:
    """Upper triangle U [K,K] with UᵀU the inverse of the damped moments."""
    damped = moments.astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * damped.diagonal().mean()
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def _round(weight: FloatArray, steps: FloatArray, low: int, high: int, factor: FloatArray) -> FloatArray:
    """Levels of some rows, columns from first to last."""
    left, levels = weight.copy(), np.empty_like(weight)
    K = weight.shape[1]
    for begin in range(0, K, COLUMNS):
        end = min(begin + COLUMNS, K)
        errors = np.empty((len(weight), end - begin), np.float32)
        for k in range(begin, end):
            levels[:, k] = np.clip(np.rint(left[:, k] / steps[:, k]), low, high)
            error = (left[:, k] - levels[:, k] * steps[:, k]) / factor[k, k]
            left[:, k + 1 : end] -= error[:, None] * factor[k, k + 1 : end]
            errors[:, k - begin] = error
        left[:, end:] -= errors @ factor[begin:end, end:]
    return levels
