"""Quantised weights as a graph stores them; the arithmetic itself is `edgetext.quantization`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgetext.errors import ExportError
from edgetext.models.config import choose_block
from edgetext.quantization import BLOCK_LEVELS, LSTM_LEVELS, Levels, block_levels, row_levels
from edgetext_export.rounding import FloatArray, spare_products

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
    "unpack",
]

NARROW_BLOCKS = (64, 32, 16)
"""Weights per scale with 4 bits: as `edgetext.models.config.INT8_BLOCKS`, but none longer."""
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of a block's range that its 4-bit levels may cover."""
ZERO_POINT = 128
"""Stored value of zero in unsigned 8-bit blocks, the default of MatMulNBits."""


@dataclass(frozen=True)
class BlockQuantised:
    """A matrix [N,K] as unsigned integers with one scale per block of a row; rows padded to whole blocks."""

    values: NDArray[np.uint8]
    """[N, blocks, block], or with 4 bits [N, blocks, block/2]; w = (value - zero point) * scale."""
    scales: FloatArray
    """[N, blocks]."""
    width: int
    """K, without padding."""
    bits: int = 8
    """8, or 4: two values a byte, the first in the lower half."""

    @property
    def zero_point(self) -> int:
        """Stored value of zero: 128, or 8."""
        return int(1 << (self.bits - 1))

    @property
    def block(self) -> int:
        """Elements per scale."""
        return int(self.values.shape[2]) * 8 // self.bits

    @property
    def padded(self) -> int:
        """K rounded up to whole blocks."""
        return int(self.values.shape[1]) * self.block

    def dequantised(self) -> FloatArray:
        """Return the matrix [N,K] as the kernels see it."""
        levels = unpack(self.values, self.bits).astype(np.float32) - self.zero_point
        return (levels * self.scales[..., None]).reshape(len(levels), -1)[:, : self.width]


def quantise_blocks(
    weight: FloatArray, block: int | None = None, bits: int = 8, moments: FloatArray | None = None
) -> BlockQuantised:
    """Quantise [N,K] to 8 or 4 bits per weight, symmetric, one scale per `block` elements of a row.

    With `moments` [K,K] of what the matrix reads levels are those of `rounding`, else the nearest.
    """
    K = weight.shape[1]
    if bits == 4:
        levels, scales = _narrow_levels(weight, block or narrow_block(K))
    else:
        levels, scales = _arrays(block_levels(torch.tensor(weight, dtype=torch.float32), block))
    if moments is not None:
        N, _, size = levels.shape
        low, high = (-8, 7) if bits == 4 else (-BLOCK_LEVELS, BLOCK_LEVELS)
        spared = spare_products(weight, np.repeat(scales, size, 1)[:, :K], low, high, moments)
        levels = np.pad(spared, ((0, 0), (0, -K % size))).reshape(N, -1, size)
    values = (levels + (8 if bits == 4 else ZERO_POINT)).astype(np.uint8)
    if bits == 4:
        values = (values[..., ::2] | (values[..., 1::2] << 4)).astype(np.uint8)
    return BlockQuantised(values, scales, K, bits)


def narrow_block(width: int) -> int:
    """Return the largest of `NARROW_BLOCKS` to which `width` is padded by an eighth at most, or 32."""
    return next((block for block in NARROW_BLOCKS if -width % block <= width // 8), 32)


def _narrow_levels(weight: FloatArray, block: int) -> tuple[FloatArray, FloatArray]:
    """Levels -8…7 [N, blocks, block] and scales [N, blocks], those of `_SHRINK` with the least squared error.

    As in llama.cpp's Q4_0 the value farthest from zero, whatever its sign, is at -8 (times the shrinking).
    """
    N, K = weight.shape
    grouped = np.pad(weight, ((0, 0), (0, -K % block))).reshape(N, -1, block)
    peak = np.take_along_axis(grouped, np.abs(grouped).argmax(-1, keepdims=True), -1)  # [N, blocks, 1]
    best = np.full(peak.shape, np.inf, np.float32)
    scales, levels = np.ones_like(peak), np.zeros_like(grouped)
    for shrink in _SHRINK:
        tried = peak * np.float32(-shrink / 8)
        tried = np.where(np.abs(tried) < np.finfo(np.float32).tiny, np.float32(1), tried)
        rounded = np.clip(np.rint(grouped / tried), -8, 7)
        error = np.square(rounded * tried - grouped).sum(-1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        scales, levels = np.where(better, tried, scales), np.where(better, rounded, levels)
    return levels, scales[..., 0].astype(np.float32)


def unpack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return stored values [..., block/2] or [..., block] one by one, [..., block]."""
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:-1], -1)


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


def quantise_columns(weight: FloatArray, levels: int, moments: FloatArray | None = None) -> ColumnQuantised:
    """Quantise [K,N] symmetrically to -levels…levels, one scale per column; `moments`: see above."""
    rows, scales = _arrays(row_levels(torch.tensor(weight.T, dtype=torch.float32), levels))
    if moments is not None:
        rows = spare_products(weight.T, np.broadcast_to(scales, rows.shape), -levels, levels, moments)
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
