"""Adversarial refinement of a distilled student, with the teacher as an anchor in every step.

A step has two moves. The discriminator learns to tell real continuations of real prefixes from the
student's. Then the student moves against it through a Gumbel-softmax roll-out (relativistic loss, RelGAN:
Nie et al. 2019), while the distillation loss on the same batch keeps it where its teacher is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgetext.adversarial.discriminators import CNNDiscriminator
from edgetext.adversarial.estimators import gumbel_rollout, inverse_temperature
from edgetext.adversarial.objectives import relativistic_discriminator, relativistic_generator
from edgetext.checkpoint import save_model
from edgetext.config import RefineSettings
from edgetext.distill.tasks import DistillTask
from edgetext.evaluate.frontier import Referee
from edgetext.training.loop import Turn
from edgetext.training.settings import OptimizerSettings


class RefineTask:
    """The game as the training loop sees it: two players, the student being `generator`."""

    def __init__(
        self, anchor: DistillTask, settings: RefineSettings, steps: int, referee: Referee, seed: int
    ) -> None:
        """`anchor` brings the student, its teacher, the batches and the distillation loss."""
        self.name, self.anchor, self.settings, self.steps = "refine", anchor, settings, steps
        self.referee, self.seed = referee, seed
        self.warmup = min(settings.discriminator_warmup, steps // 5)
        self.model = anchor.model
        self.frozen = anchor.frozen
        self.discriminator: nn.Module = CNNDiscriminator(self.model.config.vocab_size)
        self.players: Mapping[str, nn.Module] = {"generator": self.model, "discriminator": self.discriminator}
        self.optimizers = {
            "generator": anchor.optimizers["generator"],
            "discriminator": OptimizerSettings(settings.discriminator_rate, 0.0, beta1=0.5, beta2=0.999),
        }

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped players."""
        self.anchor.prepare(players, device)
        self.discriminator = players["discriminator"]

    def turns(self, step: int) -> Iterable[Turn]:
        """The discriminator's move, then the student's."""
        yield Turn("discriminator", lambda part: self.discriminator_loss(step, part))
        yield Turn("generator", lambda part: self.generator_loss(step, part))

    def discriminator_loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Relativistic loss of telling real from written, on detached samples."""
        real, prefix = self._texts(step, part)
        with torch.no_grad():
            written = self._rollout(prefix, step)
        real_logits, fake_logits = self._judge(real, prefix, written)
        told_apart = (real_logits > fake_logits).float().mean()
        return relativistic_discriminator(real_logits, fake_logits), {"told_apart": told_apart.detach()}

    def generator_loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Distillation loss plus the weighted adversarial loss."""
        anchor, figures = self.anchor.loss(step, part)
        if step < self.warmup or self.settings.adversarial_weight == 0:
            return anchor, {**figures, "anchor": anchor.detach()}
        real, prefix = self._texts(step, part)
        real_logits, fake_logits = self._judge(real, prefix, self._rollout(prefix, step))
        game = relativistic_generator(real_logits.detach(), fake_logits)
        loss = anchor + self.settings.adversarial_weight * game
        return loss, {**figures, "anchor": anchor.detach(), "adversarial": game.detach()}

    def tokens(self) -> int:
        """Tokens of a step: the anchor's windows and what the student writes in both moves."""
        return self.anchor.tokens() + 2 * self.settings.rollouts * self.settings.length

    def windows_per_pass(self) -> int:
        """Windows in one pass over the training split."""
        return self.anchor.windows_per_pass()

    def validate(self) -> Mapping[str, float]:
        """LM score, reverse-LM score and held-out NLL; their sum chooses the weights put to the referee."""
        judged = self.referee.judge(self.referee.sample(self.model, self.seed))
        nll = self.anchor.validate()["score"]
        score = judged.lm_score + judged.reverse_lm_score + nll
        return {"score": score, "nll": nll, **vars(judged)}

    def save(self, directory: Path) -> None:
        """Write the refined student's model directory."""
        save_model(directory, self.model)

    def _texts(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Real texts [R, prefix + length] cut from this step's windows, and their prefixes [R, prefix]."""
        inputs = self.anchor.batch(step, part).tokens[:, :-1]  # [B,T]
        span = self.settings.prefix + self.settings.length
        whole = inputs.shape[1] // span * span
        real = inputs[:, :whole].reshape(-1, span)[: self.settings.rollouts]
        return real, real[:, : self.settings.prefix]

    def _rollout(self, prefix: Tensor, step: int) -> Tensor:
        """Relaxed continuations [R,length,V] by the student."""
        beta = inverse_temperature(step, self.steps, self.settings.final_beta)
        return gumbel_rollout(self.anchor.generator, self.model, prefix, self.settings.length, beta)

    def _judge(self, real: Tensor, prefix: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Discriminator logits [R] of the real texts and of the written ones (after the same prefixes)."""
        vocab = written.shape[-1]
        start = nn.functional.one_hot(prefix, vocab).to(written.dtype)
        fake = torch.cat([start, written], dim=1)  # [R, prefix + length, V]
        truth = nn.functional.one_hot(real, vocab).to(written.dtype)
        logits = self.discriminator(torch.cat([truth, fake]))
        real_logits, fake_logits = logits.chunk(2)
        return real_logits, fake_logits
