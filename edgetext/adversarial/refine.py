"""Adversarial refinement of a distilled student, with the teacher as an anchor.

A step has two kinds of moves. The discriminator learns to tell real from written; then the student moves
against it by the gradient that the settings name, while the distillation loss on the same batch keeps it
where its teacher is. What "real" and "written" are, `RefineTask.sides` says: texts, distributions of teacher
and student, or hidden states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

from edgetext.adversarial.contest import Contest
from edgetext.adversarial.discriminators import Discriminator
from edgetext.adversarial.estimators import (
    PAD,
    discounted_returns,
    gumbel_rollout,
    inverse_temperature,
    policy_loss,
    rollout_rewards,
    token_log_probabilities,
    write,
)
from edgetext.adversarial.game import discriminator_move, generator_move
from edgetext.adversarial.objectives import OBJECTIVES
from edgetext.adversarial.settings import DiscriminatorConfig, RefineSettings
from edgetext.distill.targets import LiveTargets
from edgetext.distill.tasks import DistillTask
from edgetext.errors import ConfigError
from edgetext.evaluate.frontier import Referee
from edgetext.training.loop import Turn
from edgetext.training.settings import OptimizerSettings


class Opponent(nn.Module):
    """The discriminator and, for dense rewards, what it expects of every place (the learned baseline)."""

    def __init__(self, shape: DiscriminatorConfig, inputs: int, places: int) -> None:
        super().__init__()
        self.discriminator = Discriminator(shape, inputs)
        self.baseline = nn.Parameter(torch.zeros(places))

    def forward(self, inputs: Tensor, what: str = "logits") -> Tensor:
        """Judge inputs, see `Discriminator.forward`; or give the ``baseline`` of every place."""
        return self.baseline if what == "baseline" else self.discriminator(inputs, what)


class RefineTask(Contest):
    """The game of two players."""

    def __init__(
        self, anchor: DistillTask, settings: RefineSettings, steps: int, referee: Referee, seed: int
    ) -> None:
        """`anchor` brings the student, its teacher, the batches and the distillation loss.

        Raises ConfigError if the gradient needs what the anchor has not.
        """
        super().__init__(anchor, settings, referee, seed)
        self.steps = steps
        self.warmup = min(settings.discriminator_warmup, steps // 5)
        self.objective = OBJECTIVES[settings.objective]
        self.ends = anchor.sampler.by_document
        self.prefix = 1 if self.ends else settings.prefix
        if settings.gradient == "soft" and not isinstance(anchor.targets, LiveTargets):
            raise ConfigError(
                "the refinement soft compares with the teacher's own distributions, so it needs the teacher "
                "itself, not a cache or its text; give --teacher, or another --refinement"
            )
        hidden = self.model.config.hidden
        inputs = hidden if settings.gradient == "professor" else self.model.config.vocab_size
        shape = settings.discriminator.against(self.model.config.embedding)
        opponent = Opponent(shape, inputs, settings.length)
        self.opponent: nn.Module = opponent
        self.players = {**self.players, "discriminator": opponent}
        self.optimizers = {
            **self.optimizers,
            "discriminator": OptimizerSettings(
                *(settings.discriminator_rate, 0.0, settings.beta1, 0.999),
                kind=settings.optimizer,
                schedule=settings.schedule,
            ),
        }

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped players."""
        super().prepare(players, device)
        self.opponent = players["discriminator"]

    def turns(self, step: int) -> Iterable[Turn]:
        """The discriminator's moves, then the student's."""
        for move in range(self.settings.discriminator_steps):
            yield Turn("discriminator", partial(self._discriminator_turn, step, move))
        yield Turn("generator", lambda part: self.generator_loss(step, part))

    def _discriminator_turn(self, step: int, move: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.discriminator_loss(step, part, move)

    def discriminator_loss(self, step: int, part: int, move: int = 0) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The objective on what is real and what is written, plus the error of a baseline in use."""
        batch_step = step * self.settings.discriminator_steps + move
        with torch.no_grad():
            real, fake = self.sides(batch_step, part, step)
        dense = self.settings.gradient == "reinforce-dense"
        what = "tokens" if dense else "logits"
        loss, told_apart = discriminator_move(
            self.opponent, self.objective, real, fake, self.settings.r1, what
        )
        if dense:
            expected = self.opponent(fake, "baseline").expand(len(fake), -1)
            loss = loss + mse_loss(expected, self._returns(fake).detach())
        return loss, {"told_apart": told_apart}

    def generator_loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The distillation loss, in its turn, plus the weighted adversarial loss."""
        return self.anchored(step, part, step >= self.warmup, self.adversarial_loss)

    def adversarial_loss(self, step: int, part: int) -> Tensor:
        """What the student minimises against the discriminator."""
        gradient = self.settings.gradient
        if gradient in ("gumbel", "gumbel-soft", "soft", "professor"):
            real, fake = self.sides(step, part, step)
            return generator_move(self.opponent, self.objective, real, fake, self.settings.matching)
        _, prefix = self._texts(step, part)
        if gradient == "selected":
            return self._likelihood_of_chosen(prefix)
        written = self._write(prefix)
        picked, mask = token_log_probabilities(self.anchor.generator, prefix, written)
        if gradient == "reinforce-dense":
            texts = self._one_hot(torch.cat([prefix, written], dim=1))
            with torch.no_grad():
                advantages = self._returns(texts) - self.opponent(texts, "baseline")
        else:
            count = self.settings.candidates
            rewards = rollout_rewards(self._rate, self.model, prefix, written, count, self.ends)
            advantages = rewards - rewards.mean(0)
        return policy_loss(picked, advantages, mask)

    def sides(self, batch_step: int, part: int, step: int) -> tuple[Tensor, Tensor]:
        """What the discriminator reads as real and as written: [R,T,V], or [R,T,H] for hidden states."""
        real, prefix = self._texts(batch_step, part)
        gradient, P = self.settings.gradient, self.prefix
        if gradient == "soft":
            return self._distributions(real)
        if gradient == "professor":
            own = torch.cat([prefix, self._write(prefix)], dim=1)
            states = [self.anchor.generator(text[:, :-1]).hidden[-1] for text in (real, own)]
            return states[0][:, P - 1 :].float(), states[1][:, P - 1 :].float()
        if gradient in ("gumbel", "gumbel-soft"):
            beta = inverse_temperature(step, self.steps, self.settings.final_beta)
            written = gumbel_rollout(
                self.anchor.generator,
                self.model,
                prefix,
                real.shape[1] - P,
                beta,
                soft=gradient == "gumbel-soft",
                ends=self.ends,
            )
        else:
            written = self._one_hot(self._write(prefix))
        fake = torch.cat([self._one_hot(prefix).to(written.dtype), written], dim=1)
        return self._one_hot(real).to(written.dtype), fake

    def tokens(self) -> int:
        """Tokens of a step: the anchor's windows and what the student writes in all moves."""
        moves = 1 + self.settings.discriminator_steps
        return self.anchor.tokens() + moves * self.settings.rollouts * self.settings.length

    def _texts(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Real texts [R, prefix + length] cut from a step's rows, and their prefixes [R, prefix]."""
        batch = self.anchor.batch(step, part)
        span = self.prefix + self.settings.length
        if self.ends:
            rows = nn.functional.pad(batch.tokens, (0, max(0, span - batch.tokens.shape[1])), value=PAD)
            real = rows[: self.settings.rollouts, :span]
        else:
            inputs = batch.tokens[:, :-1]  # [B,T]
            whole = inputs.shape[1] // span * span
            real = inputs[:, :whole].reshape(-1, span)[: self.settings.rollouts]
        return real, real[:, : self.prefix]

    def _write(self, prefix: Tensor) -> Tensor:
        return write(self.model, prefix, self.settings.length, ends=self.ends)

    def _one_hot(self, tokens: Tensor) -> Tensor:
        return one_hot(tokens, self.model.config.vocab_size).float()

    def _rate(self, tokens: Tensor) -> Tensor:
        """Logits [N] of token texts [N,T]."""
        return self.opponent(tokens)

    def _returns(self, texts: Tensor) -> Tensor:
        """Discounted sums of 2σ(D) - 1 over the written tokens of texts [R,P+L,V]: [R,L]."""
        logits = self.opponent(texts, "tokens").view(len(texts), -1)[:, self.prefix :]
        mask = texts[:, self.prefix :].argmax(-1) != PAD
        rewards = torch.where(mask, 2 * torch.sigmoid(logits.float()) - 1, torch.zeros_like(logits))
        return discounted_returns(rewards, self.settings.discount)

    def _distributions(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher's and student's distributions after every prefix of real text [R,T-1,V]."""
        if not isinstance(self.anchor.targets, LiveTargets):
            raise ConfigError("there is no teacher to compare with; choose another --refinement")
        inputs = real[:, :-1]
        with torch.no_grad():
            theirs = self.anchor.targets.teacher(inputs).logits.float().softmax(-1)
        ours = self.anchor.generator(inputs).logits.float().softmax(-1)
        outside = (inputs == PAD)[..., None]
        return theirs.masked_fill(outside, 0.0), ours.masked_fill(outside, 0.0)

    def _likelihood_of_chosen(self, prefix: Tensor) -> Tensor:
        """Negative log-likelihood of the candidate that the discriminator rates highest, of every prefix."""
        K, R = self.settings.candidates, len(prefix)
        many = prefix.repeat_interleave(K, 0)  # [R·K,P]
        texts = torch.cat([many, self._write(many)], dim=1)
        with torch.no_grad():
            logits = self._rate(texts).view(R, K)
        chosen = texts.view(R, K, -1)[torch.arange(R), logits.argmax(1)]
        written = chosen[:, self.prefix :]
        picked, mask = token_log_probabilities(self.anchor.generator, prefix, written)
        return policy_loss(picked, torch.ones_like(picked), mask)
