"""AdamW over a module, and its learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from edgetext.training.settings import LoopSettings, OptimizerSettings


def learning_rate(step: int, peak: float, loop: LoopSettings) -> float:
    """Linear warm-up, then a cosine down to `final_rate` of the peak."""
    if step < loop.warmup_steps:
        return peak * (step + 1) / loop.warmup_steps
    share = (step - loop.warmup_steps) / max(loop.steps - loop.warmup_steps, 1)
    return peak * (loop.final_rate + (1 - loop.final_rate) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def build_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over a module; weight decay on matrices other than embeddings."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in embeddings]
    plain = [p for p in trainable if p.ndim < 2 or id(p) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.learning_rate, betas=(settings.beta1, settings.beta2)
    )
