"""Soft targets in one pass: value and gradient together.

All of them give what the plain formulas in `losses` give (tests compare them). On a CPU they go through a
few rows at a time, so that these stay in cache, and leave out those that do not count; they take about half
the time, which is a good part of a step where the student is small and the vocabulary is not. On other
devices all rows are one piece: many small kernels would take longer, and to count rows would wait for the
device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 32
"""Rows at a time on a CPU: at V = 8,192, a megabyte of float32. Elsewhere all rows are one piece."""
FLOOR = -1e3
"""Stands for a log-probability of -inf: its exponential is zero, and zero times it is zero."""


class SoftTargetsLoss(torch.autograd.Function):
    """T² · Σ_n w_n · KL(teacher_n ‖ student_n) of logits [N,V] at temperature T; weights w [N]."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, weight: Tensor, temperature: float) -> Tensor:
        """Return the loss; the gradient of the student's logits is kept for backward."""
        gradient = torch.zeros_like(student)
        total = weight.new_zeros(())
        for rows in _chunks(weight):
            log_q = _log_softmax(student[rows], temperature)  # [R,V]
            log_p = _log_softmax(teacher[rows], temperature).clamp_(min=FLOOR)
            p = log_p.exp()
            slope = log_q.exp().sub_(p)
            kl = log_p.sub_(log_q).mul_(p).sum(-1)
            w = weight[rows]
            total += _weighted(kl, w).sum()
            gradient[rows] = _weighted(slope, temperature * w[:, None]).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total * temperature**2

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None


class CoarseTargetsLoss(torch.autograd.Function):
    """The same over K + 1 events, the tokens ids [N,K] and all others together; teacher's logs p [N,K+1]."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, ids: Tensor, log_p: Tensor, weight: Tensor, temperature: float
    ) -> Tensor:
        """Return the loss; the gradient of the student's logits [N,V] is kept for backward."""
        gradient = torch.zeros_like(student)
        total = weight.new_zeros(())
        for rows in _chunks(weight):
            named, logs = ids[rows], log_p[rows].to(weight.dtype).clamp(min=FLOOR)
            p = logs.exp()
            log_q = _log_softmax(student[rows], temperature)  # [R,V]
            log_named = log_q.gather(-1, named)  # [R,K]
            slope = log_q.exp_()  # q
            q_named = slope.gather(-1, named)
            tail = slope.scatter_(-1, named, 0.0).sum(-1, keepdim=True)  # the others, summed themselves
            log_tail = tail.log().clamp_(min=FLOOR)
            kl = (p * (logs - torch.cat([log_named, log_tail], dim=-1))).sum(-1)
            w = weight[rows]
            total += _weighted(kl, w).sum()
            share = p[:, -1:] / tail.clamp_min(torch.finfo(tail.dtype).tiny)
            slope.mul_(1 - share).scatter_(-1, named, q_named - p[:, :-1])
            gradient[rows] = _weighted(slope, temperature * w[:, None]).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total * temperature**2

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None


class SampledTargetsLoss(torch.autograd.Function):
    """Σ_n w_n · KL(p_n ‖ student_n), p of the tokens ids [N,K] and of draws [N,S] from all others.

    The teacher's logs p are [N,K+1], the last one that of all others together, of which every draw has 1/S;
    a token that was drawn twice has 2/S.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, ids: Tensor, log_p: Tensor, draws: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the loss; the gradient of the student's logits [N,V] is kept for backward."""
        gradient = torch.zeros_like(student)
        total = weight.new_zeros(())
        for rows in _chunks(weight):
            log_q = _log_softmax(student[rows], 1.0)  # [R,V]
            known = log_p[rows].to(weight.dtype).exp()
            drawn = draws[rows]
            share = (known[:, -1:] / drawn.shape[-1]).expand(drawn.shape)
            p = torch.zeros_like(log_q).scatter_(-1, ids[rows], known[:, :-1]).scatter_add_(-1, drawn, share)
            slope = log_q.exp().sub_(p)
            kl = (torch.xlogy(p, p) - p * log_q).sum(-1)
            w = weight[rows]
            total += _weighted(kl, w).sum()
            gradient[rows] = _weighted(slope, w[:, None]).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None


def row_weights(like: Tensor, mask: Tensor | None) -> Tensor:
    """Weight of every row [B·T] in the mean over real tokens of logits [B,T,V], in full precision."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if mask is None:
        rows = like.shape[0] * like.shape[1]
        return torch.full((rows,), 1 / rows, dtype=dtype, device=like.device)
    weight = mask.flatten().to(dtype)
    return weight / weight.sum().clamp_min(1)


def _chunks(weight: Tensor) -> list[Tensor] | list[slice]:
    """On a CPU the numbers of the rows that count, `ROWS` at a time; elsewhere all rows at once."""
    if weight.device.type != "cpu":
        return [slice(None)]
    return list(torch.split(weight.nonzero()[:, 0], ROWS))


def _weighted(values: Tensor, weight: Tensor) -> Tensor:
    """Multiply in place; where the weight is zero so is the result, even of a NaN (in padding)."""
    values.mul_(weight)
    return values if weight.device.type == "cpu" else values.masked_fill_(weight == 0, 0.0)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log softmax(logits / T) in full precision."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)
