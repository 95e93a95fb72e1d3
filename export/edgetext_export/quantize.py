"""Weight quantisation: symmetric 8-bit integers, per block of a row or per gate of an LSTM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetext.errors import ExportError
from edgetext.models.config import INT8_BLOCKS

FloatArray = NDArray[np.float32]

ZERO_POINT = 128
"""Stored value of zero in unsigned 8-bit blocks, the default of MatMulNBits."""


def choose_block(width: int) -> int:
    """Return the largest block that divides `width`, or 32 (with padding) where none does."""
    return next((block for block in INT8_BLOCKS if width % block == 0), 32)


LSTM_LEVELS = 63
"""Largest LSTM weight. DynamicQuantizeLSTM multiplies unsigned by signed bytes, and x86 CPUs without VNNI
add two such products in 16 bits: 2 * 255 * 127 would saturate, 2 * 255 * 63 does not. The price is about
0.02 % of perplexity."""


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
    N, K = weight.shape
    size = block or choose_block(K)
    blocks = -(-K // size)
    padded = np.zeros((N, blocks * size), np.float32)
    padded[:, :K] = weight
    grouped = padded.reshape(N, blocks, size)
    scales = _scales(np.abs(grouped).max(axis=2), 127)  # [N, blocks]
    levels = np.clip(np.rint(grouped / scales[..., None]), -127, 127)
    return BlockQuantised((levels + ZERO_POINT).astype(np.uint8), scales, K)


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
    scales = _scales(np.abs(weight).max(axis=0), levels)  # [N]
    values = np.clip(np.rint(weight / scales), -levels, levels).astype(np.int8)
    return ColumnQuantised(values, scales)


def check_finite(name: str, weight: FloatArray) -> None:
    """Raise ExportError if a weight is NaN or infinite: no scale could represent it."""
    bad = int(np.count_nonzero(~np.isfinite(weight)))
    if bad:
        raise ExportError(
            f"weight {name} has {bad} values that are NaN or infinite out of {weight.size}: the training "
            f"diverged; train again with a lower learning rate"
        )


def _scales(peak: FloatArray, levels: int) -> FloatArray:
    """Scale per group; 1 where a group is all zeros (or so small that its scale would underflow)."""
    scales = (peak / levels).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    return scales
