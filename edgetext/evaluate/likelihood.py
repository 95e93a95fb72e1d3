"""Perplexity by one protocol for every model: consecutive windows, fresh state, every token a target once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetext.distill.losses import forward_kl, masked_mean
from edgetext.models.base import GeneratorModel, State

WINDOW = 128
"""T of the perplexity protocol: tokens of context a window offers at most."""

Windows = Sequence[tuple[Tensor, Tensor]]
"""Batches of (tokens [B,T+1] int64, mask [B,T] bool), from `training.data.consecutive_windows`."""


@dataclass(frozen=True)
class Likelihood:
    """How well a model predicts a split."""

    nll: float
    """Mean negative log-likelihood, nats per token."""
    tokens: int
    """Number of target tokens."""

    @property
    def perplexity(self) -> float:
        """exp(nll)."""
        return math.exp(self.nll)


@torch.no_grad()
def likelihood(model: torch.nn.Module, windows: Windows) -> Likelihood:
    """Mean NLL of a model over windows."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for tokens, mask in windows:
        tokens, mask = tokens.to(device), mask.to(device)
        logits = model(tokens[:, :-1]).logits.float()
        nll = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]  # [B,T]
        size = int(mask.sum())
        total += float(masked_mean(nll.cpu().double(), mask.cpu())) * size
        count += size
    return Likelihood(total / count, count)


@dataclass(frozen=True)
class Likeness:
    """How close a student's distributions are to its teacher's."""

    agreement: float
    """Share of positions where both models' most likely token is the same."""
    kl: float
    """KL(teacher ‖ student), nats per token."""


@torch.no_grad()
def likeness(student: GeneratorModel, teacher: GeneratorModel, windows: Windows) -> Likeness:
    """Compare a student with its teacher at every position of windows."""
    device = next(student.parameters()).device
    same, divergence, count = 0, 0.0, 0
    for tokens, mask in windows:
        tokens, mask = tokens.to(device), mask.to(device)
        ours = student(tokens[:, :-1]).logits.float().log_softmax(-1)
        theirs = teacher(tokens[:, :-1]).logits.float().log_softmax(-1)
        size = int(mask.sum())
        same += int(((ours.argmax(-1) == theirs.argmax(-1)) & mask).sum())
        divergence += float(forward_kl(ours, theirs, mask)) * size
        count += size
    return Likeness(same / count, divergence / count)


@torch.no_grad()
def decode_speed(model: GeneratorModel, tokens: int = 64, repeats: int = 3) -> float:
    """Tokens per second of greedy decoding in torch on this machine, batch 1, best of `repeats`."""
    device = next(model.parameters()).device
    best = 0.0
    for _ in range(repeats):
        token = torch.zeros(1, 1, dtype=torch.int64, device=device)
        state: State | None = None
        started = time.perf_counter()
        for _ in range(tokens):
            output = model(token, state)
            state, token = output.state, output.logits[:, -1:].argmax(-1)
        best = max(best, tokens / (time.perf_counter() - started))
    return best
