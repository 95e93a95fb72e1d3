"""Distillation losses against explicit sums in float64 and the identities of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from edgetext.adversarial.objectives import relativistic_discriminator, relativistic_generator
from edgetext.distill.losses import (
    SparseTargets,
    attention_kl,
    attention_mse,
    coarse_cross_entropy,
    coarse_log_probs,
    forward_kl,
    hard_cross_entropy,
    hidden_cosine,
    hidden_mse,
    jensen_shannon,
    log_probs,
    logit_mse,
    masked_mean,
    normalised_hidden_mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    soft_cross_entropy,
    sparse_log_probs,
    value_relation_kl,
)
from edgetext.errors import ConfigError

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
    "coarse_cross_entropy": Case(
        lambda s, t, mask: coarse_cross_entropy(s, likeliest(t), mask, 1.0),
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


@pytest.fixture
def mask() -> Tensor:
    return torch.arange(T)[None] < torch.tensor(LENGTHS)[:, None]  # [B,T]


def mean_by_hand(case: Case, student: Tensor, teacher: Tensor, mask: Tensor | None) -> float:
    rows = [
        case.row(student[b].numpy(), teacher[b].numpy(), t)
        for b in range(B)
        for t in range(T)
        if mask is None or mask[b, t]
    ]
    return sum(rows) / len(rows)


# --- every loss that compares a student with a teacher -----------------------------------------------------


@every_case
@pytest.mark.parametrize("masked", [True, False])
def test_a_loss_is_the_mean_over_real_tokens_of_its_definition(case, masked, mask):
    student, teacher = draw(0, *case.shape), draw(1, *case.shape)
    chosen = mask if masked else None
    loss = case.loss(student, teacher, chosen)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(mean_by_hand(case, student, teacher, chosen), rel=1e-10)


@every_case
def test_a_loss_is_zero_for_a_perfect_student_only(case, mask):
    student, teacher = draw(0, *case.shape), draw(1, *case.shape)
    assert case.loss(student, student.clone(), mask).item() == pytest.approx(0.0, abs=1e-12)
    assert case.loss(student, teacher, mask).item() > 1e-3


@every_case
def test_the_gradient_agrees_with_finite_differences(case, mask):
    student, teacher = draw(0, *case.shape).requires_grad_(), draw(1, *case.shape)
    assert torch.autograd.gradcheck(lambda s: case.loss(s, teacher, mask), student)


@every_case
def test_descent_brings_the_student_closer(case, mask):
    student, teacher = draw(0, *case.shape).requires_grad_(), draw(1, *case.shape)
    before = case.loss(student, teacher, mask)
    (gradient,) = torch.autograd.grad(before, student)
    after = case.loss(student.detach() - 0.01 * gradient / gradient.norm(), teacher, mask)
    assert after < before


@every_case
@pytest.mark.parametrize("garbage", [50.0, -50.0])
def test_padding_changes_neither_value_nor_gradient(case, garbage, mask):
    student, teacher = draw(0, *case.shape).requires_grad_(), draw(1, *case.shape)
    real = mask.reshape(B, *(T if axis == case.time[0] else 1 for axis in range(1, len(case.shape))))
    more = 3

    def padded(x: Tensor) -> Tensor:
        """Garbage wherever no real token is: at masked positions and at `more` new ones."""
        shape = [n + more if axis in case.time else n for axis, n in enumerate(x.shape)]
        wide = garbage * torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
        inner = tuple(slice(n) for n in x.shape)
        wide[inner] = torch.where(real, x, wide[inner])
        return wide

    value = case.loss(student, teacher, mask)
    wide_mask = torch.cat([mask, torch.zeros(B, more, dtype=torch.bool)], dim=1)
    wide_value = case.loss(padded(student), padded(teacher), wide_mask)
    torch.testing.assert_close(wide_value, value)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (value, wide_value)]
    torch.testing.assert_close(*gradients)
    assert not gradients[0].masked_select(~real).any()


@every_case
def test_parts_weighted_by_their_real_tokens_average_to_the_whole(case, mask):
    student, teacher = draw(0, *case.shape), draw(1, *case.shape)
    whole = case.loss(student, teacher, mask)
    parts = [
        case.loss(student[b : b + 1], teacher[b : b + 1], mask[b : b + 1]) * LENGTHS[b] for b in range(B)
    ]
    torch.testing.assert_close(sum(parts) / sum(LENGTHS), whole)


@every_case
def test_half_precision_inputs_are_computed_in_float32(case, mask):
    student, teacher = draw(0, *case.shape).bfloat16(), draw(1, *case.shape).bfloat16()
    exact = case.loss(student.double(), teacher.double(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = case.loss(student, teacher, mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.shift])
def test_losses_of_distributions_do_not_see_a_constant_added_to_a_row(name, mask):
    case = CASES[name]
    student, teacher = draw(0, *case.shape), draw(1, *case.shape)
    moved = student + draw(2, *case.shape[:-1], 1)
    torch.testing.assert_close(case.loss(moved, teacher, mask), case.loss(student, teacher, mask))


@every_case
def test_shapes_that_would_only_broadcast_are_refused(case):
    student, teacher = draw(0, *case.shape), draw(1, *case.shape)
    with pytest.raises(ConfigError, match=r"differ|heads"):
        case.loss(student, teacher[:, :1], None)


def test_masked_mean_of_nothing_is_zero_not_nan():
    assert masked_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)).item() == 0.0


def test_masked_mean_does_not_read_what_is_masked():
    values, mask = (
        torch.tensor([[1.0, torch.nan, 3.0, torch.inf]]),
        torch.tensor([[True, False, True, False]]),
    )
    assert masked_mean(values, mask).item() == 2.0


# --- hard and soft targets ---------------------------------------------------------------------------------


def test_hard_cross_entropy_by_hand(mask):
    student = draw(0, B, T, V).requires_grad_()
    targets = IDS[..., 0]
    total = 0.0
    for b in range(B):
        for t in range(LENGTHS[b]):
            row = student[b, t].tolist()
            total += math.log(sum(math.exp(x) for x in row)) - row[targets[b, t]]
    assert hard_cross_entropy(student, targets, mask).item() == pytest.approx(total / sum(LENGTHS))
    assert torch.autograd.gradcheck(lambda s: hard_cross_entropy(s, targets, mask), student)


def test_soft_targets_have_the_gradient_of_hintons_second_equation():
    """dC/dz = T² · (q - p)/T per token, q the student's and p the teacher's softened distribution."""
    student, teacher, temperature = draw(0, B, T, V).requires_grad_(), draw(1, B, T, V), 3.0
    (gradient,) = torch.autograd.grad(soft_cross_entropy(student, teacher, None, temperature), student)
    q, p = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    torch.testing.assert_close(gradient, temperature * (q - p) / (B * T))


def test_soft_targets_tend_to_half_the_logit_mse_at_high_temperature(mask):
    """Hinton et al. 2015, eq. 4: the gradient tends to (z - v)/N for zero-mean logits."""
    student, teacher = draw(0, B, T, V).requires_grad_(), draw(1, B, T, V)
    soft, half = soft_cross_entropy(student, teacher, mask, 1e4), logit_mse(student, teacher, mask) / 2
    assert soft.item() == pytest.approx(half.item(), rel=1e-3)
    by_soft, by_half = (torch.autograd.grad(loss, student)[0] for loss in (soft, half))
    torch.testing.assert_close(by_soft, by_half, rtol=1e-2, atol=1e-6)


def test_a_constant_in_the_logits_costs_nothing_but_a_factor_does():
    teacher = draw(1, B, T, V)
    assert logit_mse(teacher + 3, teacher).item() == pytest.approx(0, abs=1e-25)
    assert logit_mse(2 * teacher, teacher).item() == pytest.approx(
        teacher.var(-1, correction=0).mean().item()
    )


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


# --- layers ------------------------------------------------------------------------------------------------


def test_cosine_is_half_the_normalised_distance_and_ignores_length(mask):
    student, teacher = draw(0, B, T, V), draw(1, B, T, V)
    cosine = hidden_cosine(student, teacher, mask)
    torch.testing.assert_close(2 * cosine, normalised_hidden_mse(student, teacher, mask))
    torch.testing.assert_close(hidden_cosine(5 * student, teacher / 3, mask), cosine)
    assert hidden_cosine(-teacher, teacher, mask).item() == pytest.approx(2.0)


def test_cosine_of_nearly_parallel_states_does_not_cancel():
    """An angle of 1e-5 gives 1 - cos = 5e-11, below what float32 resolves next to one."""
    student, teacher = torch.tensor([[[1.0, 1e-5]]]), torch.tensor([[[1.0, 0.0]]])
    assert hidden_cosine(student, teacher).item() == pytest.approx(5e-11, rel=1e-3)


def test_states_of_length_zero_have_a_finite_gradient():
    student = torch.zeros(1, 1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(normalised_hidden_mse(student, torch.ones(1, 1, 4)), student)
    assert gradient.isfinite().all()


def test_different_widths_point_to_projections():
    with pytest.raises(ConfigError, match="project"):
        hidden_mse(draw(0, B, T, 4), draw(1, B, T, 6))


@pytest.mark.parametrize("loss", [attention_mse, attention_kl])
def test_attention_to_the_future_is_never_read(loss, mask):
    student, teacher = draw(0, B, HEADS, T, T).requires_grad_(), draw(1, B, HEADS, T, T)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    value = loss(student, teacher, mask)
    spoilt = loss(student.masked_fill(future, 1e6), teacher.masked_fill(future, -1e6), mask)
    assert torch.equal(value, spoilt)
    (gradient,) = torch.autograd.grad(value, student)
    assert not gradient.masked_select(future).any()


def test_every_query_counts_once_however_much_it_sees():
    """Scores off by one everywhere cost one, whatever the lengths; the first query alone costs its share."""
    teacher = draw(1, 1, HEADS, T, T)
    assert attention_mse(teacher + 1, teacher).item() == pytest.approx(1.0)
    first = teacher.clone()
    first[:, :, 0] += 1
    assert attention_mse(first, teacher).item() == pytest.approx(1 / T)


def test_heads_that_differ_are_refused_with_what_works():
    with pytest.raises(ConfigError, match="same number of heads; use hidden states, or value relations"):
        attention_kl(draw(0, B, 2, T, T), draw(1, B, 4, T, T))
    with pytest.raises(ConfigError, match="2 and 4 attention heads; give the number of relation heads"):
        value_relation_kl(draw(0, B, 2, T, D), draw(1, B, 4, T, D))
    with pytest.raises(ConfigError, match="3 relation heads do not divide a width of 8"):
        value_relation_kl(draw(0, B, 2, T, D), draw(1, B, 3, T, D), relation_heads=3)


def test_value_relations_compare_heads_of_different_widths(mask):
    student, teacher = draw(0, B, HEADS, T, 4), draw(1, B, HEADS, T, 6)
    expected = mean_by_hand(CASES["value_relation_kl"], student, teacher, mask)
    assert value_relation_kl(student, teacher, mask).item() == pytest.approx(expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_relation_heads_cut_the_concatenated_heads_anew(heads, mask):
    """2 heads of width 4 against 4 heads of width 3: features side by side, cut into equal slices."""
    student, teacher = draw(0, B, 2, T, 4), draw(1, B, 4, T, 3)

    def cut(values: Tensor) -> Tensor:
        features = torch.cat(list(values.unbind(1)), dim=-1)  # [B,T,heads·width]
        return torch.stack(features.chunk(heads, dim=-1), dim=1)  # [B,heads,T,·]

    expected = mean_by_hand(CASES["value_relation_kl"], cut(student), cut(teacher), mask)
    loss = value_relation_kl(student, teacher, mask, relation_heads=heads)
    assert loss.item() == pytest.approx(expected)


# --- adversarial objectives --------------------------------------------------------------------------------


def test_relativistic_losses_are_mirror_images():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.5])
    expected = (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1.5))) / 2
    assert relativistic_discriminator(real, fake).item() == pytest.approx(expected, abs=1e-6)
    assert relativistic_generator(real, fake).item() == pytest.approx(
        relativistic_discriminator(fake, real).item()
    )
