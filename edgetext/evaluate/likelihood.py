"""Perplexity by one protocol for every model: consecutive windows, fresh state, every token a target once."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetext.distill.losses import forward_kl, masked_mean
from edgetext.models.base import GeneratorModel, State, begin, label_rows
from edgetext.training.data import Window

WINDOW = 128
"""T of the perplexity protocol: tokens of context a window offers at most."""

Windows = Sequence[Window]
"""Batches of rows, from `training.data.consecutive_windows` or `document_windows`."""


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


@dataclass(frozen=True)
class Likeness:
    """How close a model's distributions are to its teacher's."""

    agreement: float
    """Share of positions where both models' most likely token is the same."""
    kl: float
    """KL(teacher ‖ model), nats per token."""


@dataclass
class _Sums:
    """What one model has gathered over the windows so far."""

    nll: float = 0.0
    same: int = 0
    kl: float = 0.0


@torch.no_grad()
def measure(
    models: Mapping[str, torch.nn.Module], windows: Windows, teacher: str | None = None
) -> dict[str, tuple[Likelihood, Likeness | None]]:
    """Likelihood of several models over the same windows, and their likeness to one of them, the `teacher`.

    The teacher reads every window once, however many models are compared with it. A model without labels is
    not told those of the windows.
    """
    sums = {name: _Sums() for name in models}
    count = 0
    names = sorted(models, key=lambda name: name != teacher)  # the teacher first
    for tokens, mask, condition in windows:
        theirs: Tensor | None = None
        for name in names:
            model = models[name]
            device = next(model.parameters()).device
            targets, real = tokens[:, 1:, None].to(device), mask.to(device)
            plain = isinstance(model, GeneratorModel) and not model.config.labels
            logits = begin(model, tokens[:, :-1].to(device), None if plain else condition).logits
            log_p = logits.float().log_softmax(-1)  # [B,T,V]
            if name == teacher:
                theirs = log_p
            nll = -log_p.gather(-1, targets)[..., 0]
            size = int(mask.sum())
            sums[name].nll += float(masked_mean(nll.cpu().double(), mask)) * size
            if theirs is not None:
                theirs = theirs.to(device)
                sums[name].same += int(((log_p.argmax(-1) == theirs.argmax(-1)) & real).sum())
                sums[name].kl += float(forward_kl(log_p, theirs, real)) * size
        count += int(mask.sum())
    return {
        name: (
            Likelihood(s.nll / count, count),
            None if teacher is None else Likeness(s.same / count, s.kl / count),
        )
        for name, s in ((name, sums[name]) for name in models)
    }


def likelihood(model: torch.nn.Module, windows: Windows) -> Likelihood:
    """Mean NLL of a model over windows."""
    return measure({"model": model}, windows)["model"][0]


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
            output = model(token, state) if state else begin(model, token, label_rows(model.config, 1))
            state, token = output.state, output.logits[:, -1:].argmax(-1)
        best = max(best, tokens / (time.perf_counter() - started))
    return best
