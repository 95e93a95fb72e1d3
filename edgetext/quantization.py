"""The 8-bit arithmetic of an exported model, defined once: for the exporter, and for training through it.

Weights are quantised when a model is exported, activations by onnxruntime's CPU kernels at every call:

=====================  ============================  ====================================================
operator               weights                       activations
=====================  ============================  ====================================================
MatMulNBits,           `block_levels`: ±127, a       `activation_block_levels`: ±127, a scale per row and
accuracy level 4       scale per block of a row      block, the same blocks as the weights'
DynamicQuantizeLSTM    `row_levels`: ±63, a scale    `activation_byte_levels`: 0…255 with a zero point,
                       per gate and unit             a scale for all that enters one product
GatherBlockQuantized   `block_levels`                none
=====================  ============================  ====================================================

Everything else (normalisation, attention, gates, biases) is float32 in both. Rounding is to nearest, ties to
even, as in the kernels. Functions take float32 (or float64) tensors on any device and are not differentiable.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgetext.models.config import choose_block

BLOCK_LEVELS = 127
"""Largest level of a MatMulNBits weight or activation, either sign."""
LSTM_LEVELS = 63
"""Largest LSTM weight. DynamicQuantizeLSTM multiplies unsigned by signed bytes, and x86 CPUs without VNNI
add two such products in 16 bits: 2 * 255 * 127 would saturate, 2 * 255 * 63 does not. The price is about
0.02 % of perplexity."""
BYTE_LEVELS = 255
"""Largest level of a DynamicQuantizeLSTM activation; the smallest is 0."""


class Levels(NamedTuple):
    """Whole numbers (in a floating-point tensor) and the scales they are multiplied with."""

    levels: Tensor
    """[..., blocks, block] for blocks, rows padded with zeros; [..., K] for rows."""
    scales: Tensor
    """[..., blocks], or [..., 1] for rows."""

    def dequantised(self, width: int) -> Tensor:
        """Return the values [..., K] as the kernels see them; `width` is K, without padding."""
        if self.levels.dim() == self.scales.dim():
            return self.levels * self.scales
        return (self.levels * self.scales[..., None]).flatten(-2)[..., :width]


def block_levels(weight: Tensor, block: int | None = None) -> Levels:
    """Quantise weights [..., K] to ±127, one scale per `block` elements (default: `choose_block`)."""
    grouped = _grouped(weight, block or choose_block(weight.shape[-1]))
    scales = _symmetric_scales(grouped.abs().amax(-1), BLOCK_LEVELS)
    return Levels(_round(grouped / scales[..., None], BLOCK_LEVELS), scales)


def row_levels(weight: Tensor, levels: int = LSTM_LEVELS) -> Levels:
    """Quantise weights [N, K] to ±`levels`, one scale per row (of an LSTM: per unit of a gate)."""
    scales = _symmetric_scales(weight.abs().amax(-1, keepdim=True), levels)
    return Levels(_round(weight / scales, levels), scales)


def activation_block_levels(x: Tensor, block: int | None = None) -> Levels:
    """Quantise activations [..., K] as MatMulNBits does with accuracy level 4: ±127 per row and block.

    The kernel multiplies by 127 / peak where weights are divided by peak / 127; the two round differently.
    """
    grouped = _grouped(x, block or choose_block(x.shape[-1]))
    peak = grouped.abs().amax(-1)
    inverse = torch.full_like(peak, BLOCK_LEVELS) / peak  # as one division: torch would multiply 1 / peak
    inverse = torch.where(inverse.isfinite(), inverse, 0.0)  # a peak of (almost) nothing
    return Levels((grouped * inverse[..., None]).round(), _divided(peak, BLOCK_LEVELS))


def activation_byte_levels(x: Tensor) -> Levels:
    """Quantise activations [..., K] as DynamicQuantizeLSTM does: unsigned bytes, less their zero point.

    One scale per row: what the kernel does when it is called with one sequence and one token. Of a longer
    prompt it quantises the input (not the recurrent state) with one scale for all tokens, and of a batch
    both with one scale for all sequences.
    """
    low, high = x.aminmax(dim=-1, keepdim=True)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scales = _divided(high - low, BYTE_LEVELS)
    scales = torch.where(scales > 0, scales, 1.0)
    zero = (-low / scales).clamp(0, BYTE_LEVELS).round()
    levels = torch.minimum((x / scales).round().maximum(-zero), BYTE_LEVELS - zero)
    return Levels(levels, scales)


def _grouped(x: Tensor, block: int) -> Tensor:
    """Pad [..., K] with zeros to whole blocks: [..., blocks, block]."""
    padding = -x.shape[-1] % block
    padded = F.pad(x, (0, padding)) if padding else x
    return padded.reshape(*x.shape[:-1], -1, block)


def _round(x: Tensor, levels: int) -> Tensor:
    return x.round().clamp(-levels, levels)


def _symmetric_scales(peak: Tensor, levels: int) -> Tensor:
    """Scale per group; 1 where a group is all zeros (or so small that its scale would underflow)."""
    scales = _divided(peak, levels)
    return torch.where(scales < torch.finfo(torch.float32).tiny, 1.0, scales)


def _divided(x: Tensor, number: int) -> Tensor:
    """Return x / number. By a tensor, as a GPU would multiply by the inverse of a plain number."""
    return x / torch.full_like(x, number)
