"""Divergences between teacher and student, over whole distributions and over coarse events."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from loss_cases import ALPHA, CASES, IDS, B, T, V, draw, probabilities
from torch import Tensor

from edgetext.distill.losses import (
    SparseTargets,
    coarse_log_probs,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    sparse_log_probs,
)
from edgetext.errors import ConfigError

# --- divergences -------------------------------------------------------------------------------------------


def test_the_directions_of_kl_on_two_events():
    """p = (0.9, 0.1), q = (0.5, 0.5): the teacher's expectation gives 0.3681, the student's 0.5108."""
    teacher, student = torch.tensor([[[0.9, 0.1]]]).log(), torch.tensor([[[0.5, 0.5]]]).log()
    assert forward_kl(student, teacher).item() == pytest.approx(0.368064, abs=1e-6)
    assert reverse_kl(student, teacher).item() == pytest.approx(0.510826, abs=1e-6)


def test_a_students_missing_mode_costs_forward_and_an_invented_one_reverse():
    teacher = torch.tensor([[[0.4995, 0.4995, 0.001]]]).log()
    covers_one, invents = (
        torch.tensor([[[0.998, 0.001, 0.001]]]).log(),
        torch.tensor([[[0.4, 0.3, 0.3]]]).log(),
    )
    assert forward_kl(covers_one, teacher) > forward_kl(invents, teacher)
    assert reverse_kl(covers_one, teacher) < reverse_kl(invents, teacher)


def test_jensen_shannon_tends_to_either_kl_when_scaled(mask):
    """Agarwal et al. 2023: D(β)/β → KL(teacher ‖ student) as β → 0; D(β)/(1-β) → KL(student ‖ teacher)."""
    student, teacher = draw(0, B, T, V).log_softmax(-1), draw(1, B, T, V).log_softmax(-1)
    small = 1e-5
    towards_0 = jensen_shannon(student, teacher, mask, beta=small) / small
    towards_1 = jensen_shannon(student, teacher, mask, beta=1 - small) / small
    assert towards_0.item() == pytest.approx(forward_kl(student, teacher, mask).item(), rel=1e-3)
    assert towards_1.item() == pytest.approx(reverse_kl(student, teacher, mask).item(), rel=1e-3)


def test_jensen_shannon_is_symmetric_at_one_half_and_mirrored_elsewhere(mask):
    student, teacher = draw(0, B, T, V).log_softmax(-1), draw(1, B, T, V).log_softmax(-1)
    for beta in (0.5, 0.2):
        torch.testing.assert_close(
            jensen_shannon(student, teacher, mask, beta=beta),
            jensen_shannon(teacher, student, mask, beta=1 - beta),
        )


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_bounds_of_the_mixed_divergences_are_reached_by_disjoint_distributions(weight):
    far = torch.tensor([[[50.0, -50.0]]], dtype=torch.float64)
    student, teacher = far.log_softmax(-1), (-far).log_softmax(-1)
    entropy = -weight * math.log(weight) - (1 - weight) * math.log(1 - weight)
    assert jensen_shannon(student, teacher, beta=weight).item() == pytest.approx(entropy)
    assert skew_kl(student, teacher, alpha=weight).item() == pytest.approx(-math.log(weight))
    assert skew_reverse_kl(student, teacher, alpha=weight).item() == pytest.approx(-math.log(weight))


def test_skewed_divergences_start_at_the_plain_ones_and_mirror_each_other(mask):
    student, teacher = draw(0, B, T, V).log_softmax(-1), draw(1, B, T, V).log_softmax(-1)
    torch.testing.assert_close(skew_kl(student, teacher, mask, alpha=0.0), forward_kl(student, teacher, mask))
    torch.testing.assert_close(
        skew_reverse_kl(student, teacher, mask, alpha=0.0), reverse_kl(student, teacher, mask)
    )
    torch.testing.assert_close(
        skew_reverse_kl(student, teacher, mask, alpha=ALPHA), skew_kl(teacher, student, mask, alpha=ALPHA)
    )


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan])
def test_mixing_weights_without_a_divergence_are_refused(value):
    logs = draw(0, B, T, V).log_softmax(-1)
    with pytest.raises(ConfigError, match="alpha"):
        skew_kl(logs, logs, alpha=value)
    with pytest.raises(ConfigError, match="alpha"):
        skew_reverse_kl(logs, logs, alpha=value)
    with pytest.raises(ConfigError, match="beta"):
        jensen_shannon(logs, logs, beta=value)


def test_beta_of_zero_names_the_loss_that_is_meant():
    logs = draw(0, B, T, V).log_softmax(-1)
    with pytest.raises(ConfigError, match="forward or the reverse KL"):
        jensen_shannon(logs, logs, beta=0.0)


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl", "reverse_kl"])
def test_events_that_the_teacher_excludes_stay_finite(name):
    """A teacher with zero probabilities: right where the definition is finite, finite where it is not."""
    teacher = draw(1, B, T, V)
    teacher[..., 2] = -torch.inf
    student = draw(0, B, T, V).requires_grad_()
    loss = CASES[name].loss(student, teacher, None)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
    if name == "forward_kl":
        p, q = teacher.softmax(-1), student.softmax(-1)
        rest = [v for v in range(V) if v != 2]
        expected = (p * (p.log() - q.log()))[..., rest].sum(-1).mean()
        torch.testing.assert_close(loss, expected)
    assert 0 < loss.item() < 1000


def test_a_confident_student_underflows_without_harm():
    student = torch.tensor([[[300.0, 0.0, -300.0]]]).requires_grad_()
    teacher = torch.tensor([[[0.0, 0.0, 0.0]]])
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"):
        loss = CASES[name].loss(student, teacher, None)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite(), name
        assert gradient.isfinite().all(), name
    assert forward_kl(student.log_softmax(-1), teacher.log_softmax(-1)).item() == pytest.approx(
        300 - math.log(3), rel=1e-6
    )
    assert reverse_kl(student.log_softmax(-1), teacher.log_softmax(-1)).item() == pytest.approx(math.log(3))


# --- coarse events -----------------------------------------------------------------------------------------


def targets_of(teacher_logits: Tensor, k: int) -> SparseTargets:
    """The k likeliest tokens of a teacher and the tail, exactly."""
    p, ids = teacher_logits.softmax(-1).sort(-1, descending=True)
    tail = p[..., k:].sum(-1).log()
    return SparseTargets(ids[..., :k], p[..., :k].log(), tail)


def test_coarse_log_probs_by_hand():
    student, temperature = draw(0, B, T, V), 1.7
    coarse = coarse_log_probs(student, IDS, temperature)
    for b in range(B):
        for t in range(T):
            p = probabilities(student[b, t].numpy() / temperature)
            named = IDS[b, t].tolist()
            expected = [math.log(p[i]) for i in named]
            expected.append(math.log(sum(p[v] for v in range(V) if v not in named)))
            assert coarse[b, t].tolist() == pytest.approx(expected)


def test_coarse_log_probs_have_the_right_gradient():
    weight = draw(3, B, T, IDS.shape[-1] + 1)
    assert torch.autograd.gradcheck(
        lambda s: (coarse_log_probs(s, IDS, 1.7) * weight).sum(), draw(0, B, T, V).requires_grad_()
    )


def test_a_small_tail_keeps_its_precision_and_its_gradient():
    """One minus the named mass would be zero in float32; the tail is 1e-13."""
    student = torch.tensor([[[30.0, 29.0, 0.0, -1.0, 0.5]]]).requires_grad_()
    ids = torch.tensor([[[0, 1]]])
    tail = coarse_log_probs(student, ids)[0, 0, 2]
    exact = student.detach().double()[0, 0]
    expected = exact[2:].logsumexp(0) - exact.logsumexp(0)
    assert tail.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(tail, student)
    torch.testing.assert_close(gradient[0, 0, 2:], exact[2:].softmax(0).float())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_or_all_but_one_token_named_nothing_is_lost(temperature, mask):
    student, teacher = draw(0, B, T, V).requires_grad_(), draw(1, B, T, V)
    full = temperature**2 * forward_kl(
        (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1), mask
    )
    for k in (V - 1, V):
        targets = targets_of(teacher, k)
        ours = coarse_log_probs(student, targets.ids, temperature)
        theirs = sparse_log_probs(targets, V, temperature)
        loss = temperature**2 * forward_kl(ours, theirs, mask)
        torch.testing.assert_close(loss, full)
        by_coarse, by_full = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (loss, full))
        torch.testing.assert_close(by_coarse, by_full)
        for divergence in (reverse_kl, lambda s, t, m: jensen_shannon(s, t, m, beta=0.4)):
            plain = divergence(student.log_softmax(-1), teacher.log_softmax(-1), mask)
            ours, theirs = coarse_log_probs(student, targets.ids), sparse_log_probs(targets, V)
            torch.testing.assert_close(divergence(ours, theirs, mask), plain)


def test_naming_more_tokens_never_lowers_the_divergence(mask):
    """Merging events cannot increase a KL divergence (data-processing inequality)."""
    student, teacher = draw(0, B, T, V), draw(1, B, T, V)
    values = []
    for k in range(1, V):
        targets = targets_of(teacher, k)
        values.append(forward_kl(coarse_log_probs(student, targets.ids), sparse_log_probs(targets, V), mask))
    assert all(a <= b + 1e-12 for a, b in pairwise(values))
    assert values[0] < values[-1]


def test_sparse_targets_soften_with_the_tail_taken_as_uniform():
    """Exact when the tail is uniform: then softening the full distribution gives the same coarse events."""
    teacher = draw(1, B, T, V)
    k, temperature = 3, 2.0
    p = teacher.softmax(-1).sort(-1, descending=True).values
    p = torch.cat([p[..., :k], p[..., k:].mean(-1, keepdim=True).expand(B, T, V - k)], dim=-1)
    softened = p ** (1 / temperature) / (p ** (1 / temperature)).sum(-1, keepdim=True)
    expected = torch.cat([softened[..., :k], softened[..., k:].sum(-1, keepdim=True)], dim=-1)
    sparse = sparse_log_probs(targets_of(teacher, k), V, temperature)
    torch.testing.assert_close(sparse.exp(), expected)


def test_sparse_targets_are_normalised_again_after_storage_in_half_precision():
    exact = targets_of(draw(1, B, T, V), 3)
    stored = SparseTargets(exact.ids, exact.log_probs.half(), exact.log_tail.half())
    rows = sparse_log_probs(stored, V)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.exp().sum(-1), torch.ones(B, T))
    torch.testing.assert_close(rows.double(), sparse_log_probs(exact, V), atol=2e-3, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_tail_lost_to_rounding_is_finite_in_both_directions(temperature):
    ids = torch.tensor([[[1, 4]]])
    targets = SparseTargets(ids, torch.tensor([[[0.75, 0.25]]]).log(), torch.tensor([[-torch.inf]]))
    student = draw(0, 1, 1, V).float().requires_grad_()
    ours, theirs = coarse_log_probs(student, ids, temperature), sparse_log_probs(targets, V, temperature)
    for divergence in (forward_kl, reverse_kl):
        loss = divergence(ours, theirs)
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=True)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_targets_of_a_larger_vocabulary_are_refused():
    with pytest.raises(ConfigError, match="another tokenizer"):
        sparse_log_probs(targets_of(draw(1, B, T, V), 5), 4)
