"""AdamW and its kin over a module, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgetext.training.settings import LoopSettings, OptimizerSettings

LOOKAHEAD_STEPS, LOOKAHEAD_SHARE = 5, 0.5
"""k and α of Lookahead, the paper's defaults (Zhang et al. 2019)."""
PLATEAU = 2
"""Validations without gain after which a plateau halves the rate, and again after as many more."""


def learning_rate(step: int, settings: OptimizerSettings, loop: LoopSettings, stale: int = 0) -> float:
    """Linear warm-up, then the schedule; the rate of a step from 0.

    `stale` counts validations since the best one, for a ``plateau``.
    """
    peak = settings.learning_rate
    if step < loop.warmup_steps:
        return peak * (step + 1) / loop.warmup_steps
    share = min((step - loop.warmup_steps) / max(loop.steps - loop.warmup_steps, 1), 1.0)
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "plateau":
        return float(peak * 0.5 ** (stale // PLATEAU))
    if settings.schedule == "exponential":
        return float(peak * loop.final_rate**share)
    return peak * (loop.final_rate + (1 - loop.final_rate) * 0.5 * (1 + math.cos(math.pi * share)))


def build_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser of a player; weight decay on matrices other than embeddings."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in embeddings]
    plain = [p for p in trainable if p.ndim < 2 or id(p) in embeddings]
    decay = 0.0 if settings.kind == "adam" else settings.weight_decay
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    kind = Lookahead if settings.kind == "lookahead" else torch.optim.AdamW
    return kind(
        [g for g in groups if g["params"]], lr=settings.learning_rate, betas=(settings.beta1, settings.beta2)
    )


class Lookahead(torch.optim.AdamW):
    """AdamW whose weights go back halfway to a slow copy every few steps (Zhang et al. 2019, algorithm 1).

    The slow copy is part of the optimiser's state, so a resumed training goes on with it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of AdamW, and every `LOOKAHEAD_STEPS` one towards the slow weights."""
        for parameter in self._parameters():
            if "slow" not in self.state[parameter]:
                self.state[parameter]["slow"] = parameter.detach().clone()
        slow = {parameter: self.state[parameter].pop("slow") for parameter in self._parameters()}
        result = super().step(closure)
        for parameter, copy in slow.items():
            state = self.state[parameter]
            if int(state.get("step", 0)) % LOOKAHEAD_STEPS == 0:
                copy.lerp_(parameter, LOOKAHEAD_SHARE)
                parameter.copy_(copy)
            state["slow"] = copy
        return result

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]
