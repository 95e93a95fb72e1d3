"""Losses between layers: hidden states, attention, value relations."""

from __future__ import annotations

import pytest
import torch
from loss_cases import CASES, HEADS, B, D, T, V, draw, mean_by_hand
from torch import Tensor

from edgetext.distill.losses import (
    attention_kl,
    attention_mse,
    hidden_cosine,
    hidden_mse,
    normalised_hidden_mse,
    value_relation_kl,
)
from edgetext.errors import ConfigError

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
