"""The two moves of an adversarial game, whatever is being generated: text, hidden states, or numbers.

`refine` plays it with text and `gaussian` with one number; both go through these two functions. A judge is
called with inputs [B,…] and gives logits [B], or, asked for ``features``, what they are a function of [B,F].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from edgetext.adversarial.objectives import Objective, feature_matching, gradient_penalty, r1_penalty

Judge = Callable[..., Any]
PENALTY_WEIGHT = 10.0
"""λ of WGAN-GP (Gulrajani et al. 2017)."""


def discriminator_move(
    judge: Judge, objective: Objective, real: Tensor, fake: Tensor, r1: float = 0.0, what: str = "logits"
) -> tuple[Tensor, Tensor]:
    """The discriminator's loss on real and written inputs [B,…], and the share of pairs it tells apart.

    Each side is judged as a batch of its own, so that layers which look at the batch see one kind only.
    `what` may be ``tokens``: one logit per token.
    """
    real, fake = real.detach(), fake.detach()
    real_logits, fake_logits = judge(real, what), judge(fake, what)
    loss = objective.discriminator(real_logits, fake_logits)
    if objective.penalised:
        loss = loss + PENALTY_WEIGHT * gradient_penalty(lambda x: judge(x, what), real, fake)
    if r1:
        loss = loss + r1 * r1_penalty(lambda x: judge(x, what), real)
    return loss, (real_logits > fake_logits).float().mean().detach()


def generator_move(
    judge: Judge, objective: Objective, real: Tensor, fake: Tensor, matching: float = 0.0
) -> Tensor:
    """The generator's loss; `matching` is the share of feature matching in it (1: nothing else)."""
    real = real.detach()
    loss = fake.new_zeros(())
    if matching < 1:
        loss = loss + (1 - matching) * objective.generator(judge(real).detach(), judge(fake))
    if matching > 0:
        match = feature_matching(judge(real, "features").detach(), judge(fake, "features"))
        loss = loss + matching * match
    return loss
