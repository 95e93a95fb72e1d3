"""Distillation losses: pure functions, masked, mean over real tokens.

Because the mean is taken over real tokens only, no loss changes with padding or with how a batch is split
into equal parts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [B,T] over the positions where mask [B,T] is true (all of them without a mask)."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1)


def hard_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood, in nats per token, of targets [B,T] under logits [B,T,V]."""
    nll = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return masked_mean(nll.view(targets.shape), mask)


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, mean over tokens; logits [B,T,V].

    The factor T² keeps the gradient's size independent of T (Hinton, Vinyals & Dean 2015, §2, eq. 1–2). The
    teacher's entropy is subtracted, so the loss is zero when both agree; the gradient is that of the soft
    cross-entropy.
    """
    teacher = torch.log_softmax(teacher_logits.float() / temperature, dim=-1)
    student = torch.log_softmax(student_logits.float() / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)  # [B,T]
    return temperature**2 * masked_mean(divergence, mask)


def hinton(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float,
    soft_weight: float,
) -> Tensor:
    """(1 - w) · hard cross-entropy + w · soft targets (Hinton, Vinyals & Dean 2015, §2)."""
    soft = soft_cross_entropy(student_logits, teacher_logits, mask, temperature)
    if soft_weight == 1.0:
        return soft
    return (1 - soft_weight) * hard_cross_entropy(student_logits, targets, mask) + soft_weight * soft
