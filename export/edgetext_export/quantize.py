"""Quantised weights as a graph stores them; the arithmetic itself is `edgetext.quantization`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgetext.errors import ExportError
from edgetext.models.config import choose_block
from edgetext.quantization import LSTM_LEVELS, Levels, block_levels, row_levels

__all__ = [
    "LSTM_LEVELS",
    "ZERO_POINT",
    "BlockQuantised",
    "ColumnQuantised",
    "FloatArray",
    "check_finite",
    "choose_block",
    "quantise_blocks",
    "quantise_columns",
]

FloatArray = NDArray[np.float32]

ZERO_POINT = 128
"""Stored value of zero in unsigned 8-bit blocks, the default of MatMulNBits."""


@dataclass(frozen=True)
class BlockQuantised:
    """A matrix [N,K] as unsigned bytes with one scale per block of a row; rows padded to whole blocks."""

    values: NDArray[np.uint8]
    """[N, blocks, block]; w = (value - 128) * scale."""
    scales: FloatArray
    """[N, blocks]."""
    width: int
    """K, without padding."""

    @property
    def block(self) -> int:
        """Elements per scale."""
        return int(self.values.shape[2])

    @property
    def padded(self) -> int:
        """K rounded up to whole blocks."""
        return int(self.values.shape[1] * self.values.shape[2])

    def dequantised(self) -> FloatArray:
        """Return the matrix [N,K] as the kernels see it."""
        w = (self.values.astype(np.float32) - ZERO_POINT) * self.scales[..., None]
        return w.reshape(len(w), -1)[:, : self.width]


def quantise_blocks(weight: FloatArray, block: int | None = None) -> BlockQuantised:
    """Quantise [N,K] to 8 bits per weight, symmetric, one scale per block of `block` elements of a row."""
    levels, scales = _arrays(block_levels(torch.tensor(weight, dtype=torch.float32), block))
    return BlockQuantised((levels + ZERO_POINT).astype(np.uint8), scales, weight.shape[1])


@dataclass(frozen=True)
class ColumnQuantised:
    """A matrix [K,N] as signed bytes with one scale per column, the layout of DynamicQuantizeLSTM."""

    values: NDArray[np.int8]
    """[K,N]."""
    scales: FloatArray
    """[N]."""

    def dequantised(self) -> FloatArray:
        """Return the matrix [K,N] as the kernels see it."""
        return self.values.astype(np.float32) * self.scales


def quantise_columns(weight: FloatArray, levels: int) -> ColumnQuantised:
    """Quantise [K,N] symmetrically to -levels…levels, one scale per column."""
    rows, scales = _arrays(row_levels(torch.tensor(weight.T, dtype=torch.float32), levels))
    return ColumnQuantised(np.ascontiguousarray(rows.T).astype(np.int8), scales[:, 0])


def check_finite(name: str, weight: FloatArray) -> None:
    """Raise ExportError if a weight is NaN or infinite: no scale could represent it."""
    bad = int(np.count_nonzero(~np.isfinite(weight)))
    if bad:
        raise ExportError(
            f"weight {name} has {bad} values that are NaN or infinite out of {weight.size}: the training "
            f"diverged; train again with a lower learning rate"
        )


def _arrays(quantised: Levels) -> tuple[FloatArray, FloatArray]:
    """Levels and scales as arrays."""
    return quantised.levels.numpy(), quantised.scales.numpy()
