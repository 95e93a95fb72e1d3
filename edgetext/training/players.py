"""The modules of a task in the forms that a training needs: saved, stepped, replicated or split, compiled."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn

from edgetext.training.settings import LoopSettings
from edgetext.training.sharding import gather_into, place_frozen, shard

if TYPE_CHECKING:
    from edgetext.training.loop import Task


@dataclass(frozen=True)
class Players:
    """A task's players, by name. All forms share one set of weights, but for `whole` of a split player."""

    whole: Mapping[str, nn.Module]
    """As the task brought them: what it saves."""
    live: Mapping[str, nn.Module]
    """What the optimiser steps: `whole` itself, or a copy of it split over the processes."""
    split: bool
    """Whether `live` is such a copy."""

    @classmethod
    def place(cls, task: Task, loop: LoopSettings, accelerator: Accelerator) -> Players:
        """Bring a task's players to their devices.

        Split are the players of a task that says it is `shardable`, if the settings ask for it.
        """
        split = loop.shard and accelerator.num_processes > 1 and getattr(task, "shardable", False)
        if not split:
            for module in task.players.values():
                module.to(accelerator.device)
            return cls(task.players, task.players, False)
        live = {name: shard(copy.deepcopy(module), accelerator) for name, module in task.players.items()}
        return cls(task.players, live, True)

    def wrap(self, accelerator: Accelerator) -> dict[str, nn.Module]:
        """Return the modules to train through: their forwards see to precision and to other replicas."""
        if self.split:
            return dict(self.live)
        return {name: accelerator.prepare(module) for name, module in self.live.items()}

    def gather(self, accelerator: Accelerator) -> None:
        """Make `whole` hold the trained weights, unwrapped."""
        if self.split:
            gather_into(self.live, self.whole)
        for module in self.whole.values():
            accelerator.unwrap_model(module, keep_fp32_wrapper=False)


def frozen_modules(task: Task, loop: LoopSettings, accelerator: Accelerator) -> dict[str, nn.Module]:
    """Place what a task reads but does not train (its `frozen`, if it has any), split if asked for."""
    frozen: Mapping[str, nn.Module] = getattr(task, "frozen", {})
    split = loop.shard and accelerator.num_processes > 1
    return {name: place_frozen(module, accelerator, split=split) for name, module in frozen.items()}


def compiled(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Wrap modules with torch.compile, sharing their weights.

    Modules with recurrent layers stay as they are: their kernels are fused over time already, and compiling
    would unroll them into one copy per token.
    """
    return {name: module if _recurrent(module) else _compile(module) for name, module in modules.items()}


def _recurrent(module: nn.Module) -> bool:
    return any(isinstance(part, nn.RNNBase) for part in module.modules())


def _compile(module: nn.Module) -> nn.Module:
    wrapped = torch.compile(module)
    if not isinstance(wrapped, nn.Module):  # it is one for every module; mypy cannot know
        raise TypeError(f"torch.compile returned {type(wrapped).__name__}")
    return wrapped
