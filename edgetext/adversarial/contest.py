"""What every refinement has in common: an anchor, a referee and a watch for collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgetext.adversarial.collapse import Watch
from edgetext.adversarial.settings import RefineSettings
from edgetext.checkpoint import save_model
from edgetext.distill.tasks import DistillTask
from edgetext.evaluate.frontier import Judgement, Referee
from edgetext.training.settings import OptimizerSettings

COOLER, WARMER = 0.9, 1.1
"""Temperatures between which the distilled student's trade of quality for diversity is measured."""


class Contest:
    """A refinement as the training loop sees it; the student is the player `generator`."""

    keeps_start = True
    """The loop validates the student before the first step, and goes back to the best state on collapse."""
    settled_from = -1
    """The first validation, of the student as it was distilled, may be the best."""

    def __init__(self, anchor: DistillTask, settings: RefineSettings, referee: Referee, seed: int) -> None:
        """`anchor` brings the student, its teacher, the batches and the distillation loss."""
        self.name, self.anchor, self.settings = "refine", anchor, settings
        self.referee, self.seed = referee, seed
        self.model, self.frozen = anchor.model, anchor.frozen
        self.players: Mapping[str, nn.Module] = {"generator": self.model}
        given = anchor.optimizers["generator"]
        self.optimizers: Mapping[str, OptimizerSettings] = {
            "generator": OptimizerSettings(
                given.learning_rate, given.weight_decay, kind=settings.optimizer, schedule=settings.schedule
            )
        }
        self.watch = Watch(referee.sample(self.model, seed))
        self.trade = self._trade()

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped players."""
        self.anchor.prepare(players, device)

    def anchored(
        self, step: int, part: int, plays: bool, game: Callable[[int, int], Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The distillation loss, in its turn, plus the weighted loss of the game, if it `plays`."""
        plays = plays and self.settings.adversarial_weight > 0
        loss, figures = torch.zeros((), device=self.anchor.device), {}
        every = self.settings.anchor_every
        if not plays or (every and step % every == 0):
            loss, found = self.anchor.loss(step, part)
            figures = {**found, "anchor": loss.detach()}
        if plays:
            played = game(step, part)
            loss = loss + self.settings.adversarial_weight * played
            figures["adversarial"] = played.detach()
        return loss, figures

    def windows_per_pass(self) -> int:
        """Windows in one pass over the training split."""
        return self.anchor.windows_per_pass()

    def validate(self) -> Mapping[str, float]:
        """Scores of fresh texts and held-out NLL; ``score`` chooses the weights put to the referee.

        A student that has collapsed, beside the one the training began with, scores infinity.
        """
        texts = self.referee.sample(self.model, self.seed)
        judged = self.referee.judge(texts)
        nll = self.anchor.validate()["score"]
        signs, collapsed = self.watch.look(texts)
        score = self.score(judged, nll)
        collapsed = collapsed or not math.isfinite(judged.lm_score + judged.reverse_lm_score + nll + score)
        figures = {"nll": nll, **vars(judged), **signs, "collapsed": float(collapsed)}
        return {"score": float("inf") if collapsed else score, **figures}

    def score(self, judged: Judgement, nll: float) -> float:
        """Reverse-LM score, plus LM score at the rate at which temperature trades them, plus NLL.

        At that rate a mere change of temperature gains nothing.
        """
        return judged.reverse_lm_score + self.trade * judged.lm_score + nll

    def save(self, directory: Path) -> None:
        """Write the refined student's model directory."""
        save_model(directory, self.model)

    def _trade(self) -> float:
        """Reverse-LM score that the student buys by temperature for a nat of LM score: in [0, 1]."""
        cool, warm = (
            self.referee.judge(self.referee.sample(self.model, self.seed, temperature))
            for temperature in (COOLER, WARMER)
        )
        paid = warm.lm_score - cool.lm_score
        bought = cool.reverse_lm_score - warm.reverse_lm_score
        return min(1.0, max(0.0, bought / paid)) if paid > 0 else 0.0
