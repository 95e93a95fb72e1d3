"""Adversarial objectives on discriminator logits: pure functions, mean over the batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log σ(D(real) - D(fake)), logits [B] (Jolicoeur-Martineau 2019, RSGAN)."""
    return F.softplus(-(real - fake)).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log σ(D(fake) - D(real)), logits [B] (Jolicoeur-Martineau 2019, RSGAN)."""
    return F.softplus(-(fake - real)).mean()
