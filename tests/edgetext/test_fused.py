"""Soft targets in one pass: row by row on a CPU, all rows at once elsewhere, the same value and gradient."""

from __future__ import annotations

import pytest
import torch

from edgetext.distill import fused

N, V, K = 70, 12, 4  # more rows than one chunk


def inputs(device: str = "cpu", padding: float = 0.0):
    """Logits of two models and weights of the rows; the last ten rows are padding."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(N, V, generator=random) for _ in range(2))
    log_p, ids = teacher.log_softmax(-1).topk(K)
    log_p = torch.cat([log_p, (1 - log_p.exp().sum(-1, keepdim=True)).log()], dim=-1)  # [N,K+1]
    student[-10:] += padding
    weight = torch.full((N,), 1 / (N - 10))
    weight[-10:] = 0
    return tuple(x.to(device) for x in (student, teacher, ids, log_p, weight))


def value_and_gradient(kind: str, given):
    student, teacher, ids, log_p, weight = given
    student = student.clone().requires_grad_()
    if kind == "whole":
        loss = fused.SoftTargetsLoss.apply(student, teacher, weight, 2.0)
    else:
        loss = fused.CoarseTargetsLoss.apply(student, ids, log_p, weight, 1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss, gradient


@pytest.mark.parametrize("kind", ["whole", "coarse"])
def test_all_rows_at_once_are_the_same_loss(kind, monkeypatch):
    loss, gradient = value_and_gradient(kind, inputs())
    monkeypatch.setattr(fused, "_chunks", lambda weight: [slice(None)])
    torch.testing.assert_close(value_and_gradient(kind, inputs()), (loss, gradient))


@pytest.mark.parametrize("kind", ["whole", "coarse"])
def test_off_the_cpu_nothing_waits_for_the_number_of_rows_that_count(kind):
    """A device without data (meta) cannot count them: `nonzero` would be an error there."""
    loss, gradient = value_and_gradient(kind, inputs("meta"))
    assert loss.shape == ()
    assert gradient.shape == (N, V)


@pytest.mark.parametrize("kind", ["whole", "coarse"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_and_leaves_padding_out(kind):
    loss, gradient = value_and_gradient(kind, inputs())
    found = value_and_gradient(kind, inputs("cuda", padding=float("nan")))
    torch.testing.assert_close(tuple(x.cpu() for x in found), (loss, gradient), rtol=1e-4, atol=1e-6)
