"""What every distillation loss is: its definition, masked, a mean over real tokens. Hard and soft targets."""

from __future__ import annotations

import math

import pytest
import torch
from loss_cases import CASES, IDS, LENGTHS, B, T, V, draw, every_case, mean_by_hand
from torch import Tensor

from edgetext.adversarial.objectives import relativistic_discriminator, relativistic_generator
from edgetext.distill.losses import hard_cross_entropy, logit_mse, masked_mean, soft_cross_entropy
from edgetext.errors import ConfigError

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


# --- adversarial objectives --------------------------------------------------------------------------------


def test_relativistic_losses_are_mirror_images():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.5])
    expected = (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1.5))) / 2
    assert relativistic_discriminator(real, fake).item() == pytest.approx(expected, abs=1e-6)
    assert relativistic_generator(real, fake).item() == pytest.approx(
        relativistic_discriminator(fake, real).item()
    )
