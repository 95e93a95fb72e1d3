"""Every distillation loss with its definition as explicit sums in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from edgetext.distill.losses import (
    SparseTargets,
    attention_kl,
    attention_mse,
    forward_kl,
    hidden_cosine,
    hidden_mse,
    jensen_shannon,
    log_probs,
    logit_mse,
    normalised_hidden_mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    soft_cross_entropy,
    sparse_cross_entropy,
    value_relation_kl,
)

B, T, V, HEADS, D = 3, 5, 7, 2, 4
LENGTHS = (5, 2, 4)  # real tokens of every row, so that parts of a batch have unequal counts
ALPHA, BETA = 0.3, 0.2
IDS = torch.tensor([[[(b + 2 * t + k) % V for k in range(3)] for t in range(T)] for b in range(B)])

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Case(NamedTuple):
    """A loss of raw inputs (logits for divergences), the shape of its inputs, and their time axes."""

    loss: Loss
    shape: tuple[int, ...]
    time: tuple[int, ...]
    row: Callable[[np.ndarray, np.ndarray, int], float]
    """The loss of position t of one row of the batch, by explicit sums."""
    shift: bool = False
    """Whether it compares distributions, so that a constant added to the student's input is not seen."""


def on_logs(divergence: Callable[..., Tensor], **options: float) -> Loss:
    """A divergence of log-probabilities as a loss of logits."""
    return lambda s, t, mask: divergence(log_probs(s), log_probs(t), mask, **options)


def probabilities(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max())
    return p / p.sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p.tolist(), q.tolist(), strict=True))


def of_probabilities(
    divergence: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray, np.ndarray, int], float]:
    """Row reference from a divergence of (teacher p, student q)."""
    return lambda s, t, i: divergence(probabilities(t[i]), probabilities(s[i]))


def jsd_by_hand(p: np.ndarray, q: np.ndarray) -> float:
    m = BETA * p + (1 - BETA) * q
    return BETA * kl(p, m) + (1 - BETA) * kl(q, m)


def logit_mse_by_hand(s: np.ndarray, t: np.ndarray, i: int) -> float:
    s_mean, t_mean = sum(s[i]) / V, sum(t[i]) / V
    return sum(((s[i][v] - s_mean) - (t[i][v] - t_mean)) ** 2 for v in range(V)) / V


def normalised_by_hand(s: np.ndarray, t: np.ndarray, i: int) -> float:
    s_norm, t_norm = math.sqrt(sum(s[i] ** 2)), math.sqrt(sum(t[i] ** 2))
    return sum((x / s_norm - y / t_norm) ** 2 for x, y in zip(s[i], t[i], strict=True))


def cosine_by_hand(s: np.ndarray, t: np.ndarray, i: int) -> float:
    return 1 - float(s[i] @ t[i]) / math.sqrt(float(s[i] @ s[i]) * float(t[i] @ t[i]))


def attention_mse_by_hand(s: np.ndarray, t: np.ndarray, i: int) -> float:
    entries = [(s[h, i, j] - t[h, i, j]) ** 2 for h in range(HEADS) for j in range(i + 1)]
    return sum(entries) / len(entries)


def attention_kl_by_hand(s: np.ndarray, t: np.ndarray, i: int) -> float:
    rows = [kl(probabilities(t[h, i, : i + 1]), probabilities(s[h, i, : i + 1])) for h in range(HEADS)]
    return sum(rows) / HEADS


def relations_by_hand(s: np.ndarray, t: np.ndarray, i: int) -> float:
    """Values [heads,T,width] of both sides, heads already equal in number."""
    total = 0.0
    for own, other in zip(s, t, strict=True):
        q, p = (
            probabilities(np.array([float(x[i] @ x[j]) / math.sqrt(x.shape[1]) for j in range(i + 1)]))
            for x in (own, other)
        )
        total += kl(p, q)
    return total / len(s)


def likeliest(logits: Tensor, count: int = 3) -> SparseTargets:
    """A teacher's `count` likeliest tokens and the mass of the others."""
    top = torch.log_softmax(logits.double(), -1).topk(count)
    return SparseTargets(top.indices, top.values, torch.log1p(-top.values.exp().sum(-1)))


def coarse_by_hand(p: np.ndarray, q: np.ndarray, count: int = 3) -> float:
    named = np.argsort(-p)[:count]
    return kl(*(np.append(x[named], 1 - x[named].sum()) for x in (p, q)))


CASES = {
    "forward_kl": Case(on_logs(forward_kl), (B, T, V), (1,), of_probabilities(kl), True),
    "reverse_kl": Case(on_logs(reverse_kl), (B, T, V), (1,), of_probabilities(lambda p, q: kl(q, p)), True),
    "jensen_shannon": Case(
        on_logs(jensen_shannon, beta=BETA), (B, T, V), (1,), of_probabilities(jsd_by_hand), True
    ),
    "skew_kl": Case(
        on_logs(skew_kl, alpha=ALPHA),
        (B, T, V),
        (1,),
        of_probabilities(lambda p, q: kl(p, ALPHA * p + (1 - ALPHA) * q)),
        True,
    ),
    "skew_reverse_kl": Case(
        on_logs(skew_reverse_kl, alpha=ALPHA),
        (B, T, V),
        (1,),
        of_probabilities(lambda p, q: kl(q, (1 - ALPHA) * p + ALPHA * q)),
        True,
    ),
    "soft_cross_entropy": Case(
        lambda s, t, mask: soft_cross_entropy(s, t, mask, 2.5),
        (B, T, V),
        (1,),
        lambda s, t, i: 2.5**2 * kl(probabilities(t[i] / 2.5), probabilities(s[i] / 2.5)),
        True,
    ),
    "sparse_cross_entropy": Case(
        lambda s, t, mask: sparse_cross_entropy(s, likeliest(t), mask, 1.0),
        (B, T, V),
        (1,),
        lambda s, t, i: coarse_by_hand(probabilities(t[i]), probabilities(s[i])),
        False,
    ),
    "logit_mse": Case(logit_mse, (B, T, V), (1,), logit_mse_by_hand, True),
    "hidden_mse": Case(hidden_mse, (B, T, V), (1,), lambda s, t, i: sum((s[i] - t[i]) ** 2) / V),
    "normalised_hidden_mse": Case(normalised_hidden_mse, (B, T, V), (1,), normalised_by_hand),
    "hidden_cosine": Case(hidden_cosine, (B, T, V), (1,), cosine_by_hand),
    "attention_mse": Case(attention_mse, (B, HEADS, T, T), (2, 3), attention_mse_by_hand),
    "attention_kl": Case(attention_kl, (B, HEADS, T, T), (2, 3), attention_kl_by_hand, True),
    "value_relation_kl": Case(value_relation_kl, (B, HEADS, T, D), (2,), relations_by_hand),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_by_hand(case: Case, student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    rows = [
        case.row(student[b].numpy(), teacher[b].numpy(), t)
        for b in range(B)
        for t in range(T)
        if mask is None or mask[b, t]
    ]
    return sum(rows) / len(rows)
