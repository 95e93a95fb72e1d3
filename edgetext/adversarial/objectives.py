"""Adversarial objectives on discriminator logits: pure functions, mean over the batch.

Every objective is a pair: what the discriminator minimises on logits of real and written text [B], and what
the generator does. The penalties on the discriminator's gradient belong to no objective (R1 goes with all of
them) but for WGAN-GP's, which is part of its definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits of real text [B], logits of written text [B]) → scalar."""


@dataclass(frozen=True)
class Objective:
    """Both sides of a game."""

    discriminator: Loss
    generator: Loss
    source: str
    """Paper and equation."""
    calibrated: bool = False
    """Whether the logit estimates log p_real/p_written, so that exp(logit) is a ratio of densities."""
    penalised: bool = False
    """Whether the discriminator's gradient between real and written text is held at norm 1."""


def binary_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log σ(D(real)) - log(1 - σ(D(fake))), logits [B] (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_generator(real: Tensor, fake: Tensor) -> Tensor:
    """log(1 - σ(D(fake))), logits [B] (Goodfellow et al. 2014, eq. 1): flat where D is sure."""
    return -F.softplus(fake).mean()


def nonsaturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log σ(D(fake)), logits [B] (Goodfellow et al. 2014, §3)."""
    return F.softplus(-fake).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), logits [B] (Lim & Ye 2017; Miyato et al. 2018, eq. 16)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def linear_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-D(fake), logits [B] (Miyato et al. 2018, eq. 17; Arjovsky et al. 2017)."""
    return -fake.mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """D(fake) - D(real), scores [B] (Arjovsky et al. 2017, eq. 3); goes with `gradient_penalty`."""
    return fake.mean() - real.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log σ(D(real) - D(fake)), logits [B] (Jolicoeur-Martineau 2019, RSGAN)."""
    return F.softplus(-(real - fake)).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log σ(D(fake) - D(real)), logits [B] (Jolicoeur-Martineau 2019, RSGAN)."""
    return F.softplus(-(fake - real)).mean()


OBJECTIVES: Mapping[str, Objective] = {
    "minimax": Objective(binary_discriminator, minimax_generator, "Goodfellow et al. 2014, eq. 1", True),
    "non-saturating": Objective(
        binary_discriminator, nonsaturating_generator, "Goodfellow et al. 2014, §3", True
    ),
    "hinge": Objective(hinge_discriminator, linear_generator, "Miyato et al. 2018, eq. 16-17"),
    "relativistic": Objective(
        relativistic_discriminator, relativistic_generator, "Jolicoeur-Martineau 2019; Nie et al. 2019"
    ),
    "wgan-gp": Objective(
        wasserstein_discriminator, linear_generator, "Gulrajani et al. 2017, eq. 3", penalised=True
    ),
}


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """|E f(real) - E f(fake)|², features [B,F] (Salimans et al. 2016, §3.1)."""
    return (real.mean(0) - fake.mean(0)).square().sum()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """½ E |∇D(real)|² over inputs [B,…] (Mescheder et al. 2018, eq. 9)."""
    return 0.5 * _squared_gradient(discriminator, real).mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E (|∇D(x)| - 1)², x evenly between real and written inputs [B,…] (Gulrajani et al. 2017, eq. 3)."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = share * real + (1 - share) * fake
    return ((_squared_gradient(discriminator, between) + 1e-12).sqrt() - 1).square().mean()


def _squared_gradient(discriminator: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """|∇D|² of every row [B], differentiable."""
    inputs = inputs.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
        score = discriminator(inputs).sum()
    (gradient,) = torch.autograd.grad(score, inputs, create_graph=True)
    return gradient.flatten(1).square().sum(1)
