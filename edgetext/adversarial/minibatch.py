"""Layers that let a discriminator see a whole batch at once: a collapsed generator gives itself away."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MinibatchDiscrimination(nn.Module):
    """How like the others of its batch every row is, added to its features (Salimans et al. 2016, §3.2).

    Σ_j exp(-|M_i - M_j|₁) over the other rows j, M = x T reshaped to B kernels of C numbers; the mean is
    taken instead of the sum, so that the batch size does not matter.
    """

    def __init__(self, features: int, kernels: int = 16, size: int = 4) -> None:
        super().__init__()
        self.kernels, self.size = kernels, size
        self.project = nn.Linear(features, kernels * size, bias=False)

    @property
    def added(self) -> int:
        """Features that a row gets."""
        return self.kernels

    def forward(self, x: Tensor) -> Tensor:
        """[B,F] → [B,F+kernels]."""
        rows = len(x)
        m = self.project(x).view(rows, self.kernels, self.size)
        distance = (m[:, None] - m[None]).abs().sum(-1)  # [B,B,kernels]
        others = torch.exp(-distance).sum(1) - 1  # a row is no neighbour of its own
        return torch.cat([x, others / max(rows - 1, 1)], dim=1)


class MinibatchDeviation(nn.Module):
    """Mean standard deviation of the batch's features, appended to every row (Karras et al. 2018, §3)."""

    added = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B,F] → [B,F+1]."""
        deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
        return torch.cat([x, deviation.expand(len(x), 1)], dim=1)


def minibatch_layer(kind: str, features: int) -> tuple[nn.Module, int]:
    """The layer of a kind (``none``, ``discrimination``, ``deviation``) and the width after it."""
    if kind == "discrimination":
        layer = MinibatchDiscrimination(features)
        return layer, features + layer.added
    if kind == "deviation":
        return MinibatchDeviation(), features + MinibatchDeviation.added
    return nn.Identity(), features
