"""Distillation losses against independent computations and the identities of their papers."""

import math

import pytest
import torch

from edgetext.adversarial.objectives import relativistic_discriminator, relativistic_generator
from edgetext.distill.losses import hard_cross_entropy, hinton, masked_mean, soft_cross_entropy

B, T, V = 3, 5, 7


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    student = torch.randn(B, T, V, generator=random, dtype=torch.float64)
    teacher = torch.randn(B, T, V, generator=random, dtype=torch.float64)
    targets = torch.randint(0, V, (B, T), generator=random)
    mask = torch.rand(B, T, generator=random) < 0.7
    return student, teacher, targets, mask


def test_hard_cross_entropy_by_hand(batch):
    student, _, targets, mask = batch
    total = 0.0
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                row = student[b, t].tolist()
                total += math.log(sum(math.exp(x) for x in row)) - row[targets[b, t]]
    assert hard_cross_entropy(student, targets, mask).item() == pytest.approx(
        total / mask.sum().item(), abs=1e-5
    )


def test_soft_cross_entropy_by_hand(batch):
    student, teacher, _, mask = batch
    temperature, total = 2.5, 0.0
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                p = (teacher[b, t] / temperature).softmax(-1).tolist()
                q = (student[b, t] / temperature).softmax(-1).tolist()
                total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    expected = temperature**2 * total / mask.sum().item()
    assert soft_cross_entropy(student, teacher, mask, temperature).item() == pytest.approx(expected, abs=1e-5)


def test_losses_ignore_padding(batch):
    student, teacher, targets, mask = batch
    spoilt = student.clone()
    spoilt[~mask] = 100.0
    for loss in (
        lambda s: hard_cross_entropy(s, targets, mask),
        lambda s: soft_cross_entropy(s, teacher, mask, 2.0),
    ):
        assert torch.equal(loss(student), loss(spoilt))


def test_losses_do_not_depend_on_how_a_batch_is_split(batch):
    student, teacher, targets, _ = batch
    whole = hinton(student, teacher, targets, temperature=2.0, soft_weight=0.5)
    parts = [
        hinton(student[b : b + 1], teacher[b : b + 1], targets[b : b + 1], temperature=2.0, soft_weight=0.5)
        for b in range(B)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_a_student_that_equals_its_teacher_has_no_soft_loss(batch):
    student, *_ = batch
    assert abs(soft_cross_entropy(student, student, None, 3.0).item()) < 1e-6


def test_soft_targets_tend_to_logit_matching_at_high_temperature(batch):
    """T² · KL → half the mean squared difference of centred logits over V (Hinton et al. 2015, eq. 4)."""
    student, teacher, *_ = batch
    centred = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    expected = (centred**2).sum(-1).mean() / (2 * V)
    loss = soft_cross_entropy(student, teacher, None, 300.0)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


def test_gradients_agree_with_finite_differences():
    random = torch.Generator().manual_seed(1)
    student = torch.randn(2, 2, 4, generator=random, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 4, generator=random, dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    targets = torch.randint(0, 4, (2, 2), generator=random)
    # The losses compute in float32, so the differences need a wide step and a wide tolerance.
    for loss in (
        lambda s: soft_cross_entropy(s, teacher, mask, 2.0),
        lambda s: hard_cross_entropy(s, targets, mask),
    ):
        (gradient,) = torch.autograd.grad(loss(student), student)
        for index in [(0, 0, 1), (0, 1, 3), (1, 0, 2), (1, 1, 0)]:
            step = torch.zeros_like(student)
            step[index] = 0.05
            difference = (loss(student + step) - loss(student - step)) / 0.1
            assert gradient[index].item() == pytest.approx(difference.item(), abs=2e-3)


def test_masked_mean_of_nothing_is_zero_not_nan():
    assert masked_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)).item() == 0.0


def test_relativistic_losses_are_mirror_images():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.5])
    expected = (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1.5))) / 2
    assert relativistic_discriminator(real, fake).item() == pytest.approx(expected, abs=1e-6)
    assert relativistic_generator(real, fake).item() == pytest.approx(
        relativistic_discriminator(fake, real).item()
    )
