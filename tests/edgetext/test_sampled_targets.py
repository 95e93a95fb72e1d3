"""The tail of cached targets: drawn in proportion, and worth the teacher's whole distribution in the mean."""

import math

import numpy as np
import pytest
import torch

from edgetext.distill.cache import CacheSettings
from edgetext.distill.losses import SparseTargets, soft_cross_entropy, sparse_cross_entropy
from edgetext.distill.top_targets import top_targets
from edgetext.errors import ConfigError

V, K, S = 50, 5, 8


def logits_of(rows, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (rows, V)))


def stored(logits, samples=S, first=0):
    """What a cache holds of logits [N,V], as targets [1,N,·]."""
    positions = torch.arange(first, first + len(logits))
    return SparseTargets(*(part[None] for part in top_targets(logits, K, samples, positions)))


def test_top_targets_against_numpy():
    logits = np.random.default_rng(0).normal(0, 4, (20, V))
    ids, log_probs, log_tail, _ = top_targets(torch.from_numpy(logits), 5, 0, torch.arange(20))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    order = np.argsort(-p, axis=-1)
    np.testing.assert_array_equal(ids.numpy(), order[:, :5])
    np.testing.assert_allclose(np.exp(log_probs.numpy()), np.take_along_axis(p, order[:, :5], -1), rtol=1e-5)
    tail = np.take_along_axis(p, order[:, 5:], -1).sum(-1)
    np.testing.assert_allclose(np.exp(log_tail.numpy()), tail, rtol=1e-5)


@pytest.mark.parametrize("step", [1, 89, 1 << 16])
def test_draws_are_in_proportion_and_never_among_the_likeliest(step):
    """Also where the same context comes again and again at equal distances."""
    logits = logits_of(1).expand(5000, V)
    ids, _, log_tail, drawn = top_targets(logits, K, S, step * torch.arange(5000))
    assert not torch.isin(drawn, ids[0]).any()
    expected = S * (logits[0].softmax(-1).double() / log_tail[0].exp()).scatter(-1, ids[0], 0.0)
    counts = torch.stack([torch.bincount(row, minlength=V) for row in drawn])  # [N,V]
    assert (counts >= expected.floor() - 1e-9).all()  # systematic: each row has the share of a token to one
    assert (counts <= expected.ceil() + 1e-9).all()
    torch.testing.assert_close(counts.double().mean(0), expected, atol=0.03, rtol=0)


def test_a_draw_depends_on_its_position_alone():
    logits = logits_of(30)
    whole = top_targets(logits, K, S, torch.arange(100, 130))[3]
    part = top_targets(logits[11:17], K, S, torch.arange(111, 117))[3]
    torch.testing.assert_close(part, whole[11:17])


def test_the_loss_is_that_of_the_stored_distribution():
    targets = stored(logits_of(6))
    student = logits_of(6, seed=1)[None]
    p = torch.zeros(6, V, dtype=torch.float64)
    for n in range(6):
        for token, log_p in zip(targets.ids[0, n], targets.log_probs[0, n], strict=True):
            p[n, token] += log_p.exp()
        for token in targets.tail_ids[0, n]:
            p[n, token] += targets.log_tail[0, n].exp() / S
    log_q = student[0].log_softmax(-1)
    by_hand = sum(
        (p[n, v] * (p[n, v].log() - log_q[n, v])).item() for n in range(6) for v in range(V) if p[n, v] > 0
    )
    assert sparse_cross_entropy(student, targets).item() == pytest.approx(by_hand / 6, rel=1e-6)


def test_the_gradient_is_right_and_padding_has_none():
    targets, mask = stored(logits_of(40)), torch.ones(1, 40, dtype=torch.bool)
    mask[0, 35:] = False
    student = logits_of(40, seed=1)[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda s: sparse_cross_entropy(s, targets, mask), student, atol=1e-6)
    (gradient,) = torch.autograd.grad(sparse_cross_entropy(student, targets, mask), student)
    assert not gradient[0, 35:].any()


def test_in_the_mean_over_positions_the_gradient_is_the_whole_distributions():
    """A bare mass of the tail says nothing of its shape; drawn, it does, and without bias."""
    rows = 4000
    teacher, student = logits_of(1).expand(rows, V), logits_of(1, seed=1).expand(1, rows, V)
    student = student.clone().requires_grad_()
    (whole,) = torch.autograd.grad(soft_cross_entropy(student, teacher[None]), student)
    far = {}
    for samples in (0, S):
        (part,) = torch.autograd.grad(sparse_cross_entropy(student, stored(teacher, samples)), student)
        far[samples] = (part.sum(1) - whole.sum(1)).abs().max().item()
    assert far[S] < 3e-3
    assert far[0] > 10 * far[S]


def test_softened_targets_are_compared_by_coarse_events():
    student = logits_of(6, seed=1)[None]
    drawn, bare = stored(logits_of(6)), stored(logits_of(6), 0)
    warm, cold = ([sparse_cross_entropy(student, x, None, t) for x in (drawn, bare)] for t in (2.0, 1.0))
    assert warm[0] == warm[1]
    assert cold[0] > cold[1]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="--tail-samples is -1"):
        CacheSettings(tail_samples=-1)


def test_a_whole_vocabulary_leaves_nothing_to_draw():
    """K = V: the draws stand for nothing, and the loss is that of dense targets."""
    teacher, student = logits_of(6), logits_of(6, seed=1)[None]
    targets = SparseTargets(*(part[None] for part in top_targets(teacher, V, S, torch.arange(6))))
    dense = soft_cross_entropy(student, teacher[None]).item()
    assert math.isclose(sparse_cross_entropy(student, targets).item(), dense, rel_tol=1e-5)
