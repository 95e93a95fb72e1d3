"""The student learns what it would write if its texts were drawn again by a discriminator.

A discriminator trained against the distilled student p estimates log p_data / p of a whole text (`resample`),
so that q(x) ∝ p(x) exp(logit(x)) is closer to the data (Deng et al. 2020). Of K candidates x_k from p, each
has the weight w_k = softmax(logits)_k under q, and the student minimises the cross-entropy to q,

    E[Σ_k w_k · -log p_θ(x_k)]  =  E[Σ_k (w_k - 1/K) · -log p_θ(x_k)]  +  E[CE(p, p_θ)],

where the last term, the cross-entropy of p's own texts, is taken over the whole vocabulary at every place
of the candidates instead of over the tokens drawn. This control variate is what makes it learn: most of the
noise of the left side is in that term, and weights of both signs alone would run away from p.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from edgetext.adversarial.contest import Contest
from edgetext.adversarial.estimators import PAD
from edgetext.adversarial.resample import Rater, draw_texts
from edgetext.adversarial.settings import RefineSettings
from edgetext.distill.tasks import DistillTask
from edgetext.evaluate.frontier import Judgement, Referee
from edgetext.training.loop import Turn

POOL_STEPS = 50
"""Steps whose candidates are drawn together."""
HELD_OUT_STEPS = 16
"""Steps' worth of candidates that are validated on."""


class ResidualTask(Contest):
    """The refinement `resampled`: one player, against a discriminator that has been trained before."""

    exact = True
    """Its gradient is the small difference of two large ones."""

    def __init__(
        self, anchor: DistillTask, settings: RefineSettings, rater: Rater, referee: Referee, seed: int
    ) -> None:
        """`rater` was trained against the student as it is now."""
        super().__init__(anchor, settings, referee, seed)
        self.rater, self.source = rater, deepcopy(self.model).eval().requires_grad_(False)
        self.generator: nn.Module = self.model
        self._pool: tuple[int, Tensor, Tensor] = (-1, torch.empty(0), torch.empty(0))
        self._held_out: tuple[Tensor, Tensor] | None = None

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped student; what it starts from and the discriminator follow it to its device."""
        super().prepare(players, device)
        self.generator = players["generator"]
        self.source.to(device)

    def turns(self, step: int) -> Iterable[Turn]:
        """One move: the student's."""
        yield Turn("generator", partial(self.loss, step))

    def loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The distillation loss, in its turn, and the cross-entropy to the resampled texts."""
        return self.anchored(step, part, True, self.residual_loss)

    def residual_loss(self, step: int, part: int) -> Tensor:
        """Cross-entropy to the resampled texts, with its control variate, nats per token."""
        number, place = divmod(step, POOL_STEPS)
        if self._pool[0] != number:
            self._pool = (number, *self._drawn(number, POOL_STEPS))
        _, texts, weights = self._pool
        mine = slice(part, None, self.anchor.parts)
        return self._cross_entropy(texts[place, mine].flatten(0, 1), weights[place, mine].flatten())

    def _cross_entropy(self, texts: Tensor, weights: Tensor) -> Tensor:
        """Of candidates [N,T] and their weights K·w_k - 1 [N]."""
        texts, weights = texts.to(self.anchor.device), weights.to(self.anchor.device)
        texts = texts[:, : int((texts != PAD).sum(1).max())]
        fed = nn.functional.pad(texts[:, :-1], (1, 0))  # texts begin after the boundary, id 0
        mask = texts != PAD
        logs = self.generator(fed).logits.float().log_softmax(-1)  # [N,T,V]
        with torch.no_grad():
            before = self.source(fed).logits.float().softmax(-1)
        drawn = logs.gather(-1, texts[..., None])[..., 0]
        tokenwise = -(before * logs).sum(-1) - weights[:, None] * drawn
        return torch.where(mask, tokenwise, 0.0).sum() / mask.sum()

    def score(self, judged: Judgement, nll: float) -> float:
        """The loss on candidates that are never trained on: scores of a few hundred texts are far noisier."""
        if self._held_out is None:
            self._held_out = self._drawn(-1, HELD_OUT_STEPS)
        texts, weights = self._held_out
        losses = [
            self._cross_entropy(t.flatten(0, 1), w.flatten()) for t, w in zip(texts, weights, strict=True)
        ]
        return float(torch.stack(losses).detach().mean())

    def tokens(self) -> int:
        """Most tokens of a step: the anchor's windows and the candidates."""
        texts = self.settings.rollouts * self.settings.candidates
        return self.anchor.tokens() + texts * self.rater.length

    def _drawn(self, number: int, steps: int) -> tuple[Tensor, Tensor]:
        """Candidates of some steps [steps,R,K,T] and their weights: a function of seed and number."""
        R, K = self.settings.rollouts, self.settings.candidates
        count, length = steps * R * K, self.rater.length
        seed = 15_485_863 * (self.seed + 1) + number
        texts = draw_texts(self.source, count, length, seed, self.referee.suppressed, batch=1024)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))  # drawn by length
        texts = texts[order]
        logits = self.rater.logits(texts).view(steps, R, K)
        return texts.view(steps, R, K, length), K * logits.softmax(-1) - 1
