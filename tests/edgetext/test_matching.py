"""Layer maps, projections, and students that start as their teacher with layers left out."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgetext.distill.losses import hidden_mse
from edgetext.distill.matching import COPIED_SHAPE, Projections, copied_layers, copy_layers, layer_map
from edgetext.distill.recipe import LAYER_MAPS
from edgetext.errors import ConfigError
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import GeneratorModel
from edgetext.models.config import TRAINING_ONLY

LSTM = ModelConfig("lstm", 11, 6, 6, 4, tied=True)
WIDE_LSTM = replace(LSTM, hidden=8)
GRU = replace(LSTM, kind="gru")
TRANSFORMER = ModelConfig(
    "transformer", 11, 8, 8, 5, heads=2, kv_heads=1, ffn=12, context=16, tied=False, dropout=0.1
)


def model(config: ModelConfig, seed: int) -> GeneratorModel:
    torch.manual_seed(seed)
    return build_model(config).eval()


# --- layer maps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "strategy", "pairs"),
    [
        # The papers' own examples: BERT's 12 layers into 6 (PKD, Sun et al. 2019) and into 4 (TinyBERT).
        (6, 12, "skip", ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))),
        (6, 12, "last", ((1, 7), (2, 8), (3, 9), (4, 10), (5, 11))),
        (4, 12, "uniform", ((1, 3), (2, 6), (3, 9), (4, 12))),
        (6, 12, "final", ((6, 12),)),
        (2, 3, "uniform", ((1, 2), (2, 3))),
        (3, 5, "uniform", ((1, 2), (2, 3), (3, 5))),
        (3, 5, "skip", ((1, 1), (2, 2))),
        (3, 5, "last", ((1, 3), (2, 4))),
        (1, 1, "uniform", ((1, 1),)),
        (2, 1, "final", ((2, 1),)),
        (3, 3, "block", ((1, 1), (2, 2), (3, 3))),
    ],
)
def test_layer_maps_of_the_papers(student, teacher, strategy, pairs):
    assert layer_map(student, teacher, strategy) == pairs


@given(st.integers(1, 40), st.integers(0, 40), st.sampled_from(LAYER_MAPS))
def test_layer_maps_rise_and_stay_within_both_models(student, more, strategy):
    teacher = student if strategy == "block" else student + more
    if student == 1 and strategy in ("skip", "last"):
        return
    ours, theirs = zip(*layer_map(student, teacher, strategy), strict=True)
    for side, layers in ((ours, student), (theirs, teacher)):
        assert list(side) == sorted(set(side))
        assert side[0] >= 1
        assert side[-1] <= layers
    expected = {
        "uniform": range(1, student + 1),
        "skip": range(1, student),
        "last": range(1, student),
        "final": [student],
        "block": range(1, student + 1),
    }
    assert list(ours) == list(expected[strategy])
    ends = {
        "uniform": theirs[-1] == teacher,
        "last": theirs[-1] == teacher - 1,
        "final": theirs == (teacher,),
        "block": theirs == ours,
    }
    assert ends.get(strategy, len(set(map(int.__sub__, theirs[1:], theirs))) <= 1)


@pytest.mark.parametrize("strategy", ["uniform", "skip", "last"])
def test_a_student_deeper_than_its_teacher_is_told_what_it_can_do(strategy):
    with pytest.raises(ConfigError, match=r"not 4 and 3; use at most 3 layers \(layers=3 .* map 'final'"):
        layer_map(4, 3, strategy)


@pytest.mark.parametrize(("student", "teacher"), [(2, 4), (4, 2)])
def test_block_by_block_takes_equal_numbers_of_layers(student, teacher):
    with pytest.raises(ConfigError, match=rf"block by block.*layers={teacher} in --student"):
        layer_map(student, teacher, "block")


@pytest.mark.parametrize("strategy", ["skip", "last"])
def test_a_student_of_one_layer_has_no_layers_below_its_last(strategy):
    with pytest.raises(ConfigError, match=r"layers=2 .* 'uniform' or 'final'"):
        layer_map(1, 4, strategy)


def test_an_unknown_map_is_named():
    with pytest.raises(ConfigError, match="'every-other' is unknown; use one of uniform, skip"):
        layer_map(2, 4, "every-other")


# --- projections -------------------------------------------------------------------------------------------


def test_projections_reach_the_teachers_widths_and_leave_equal_ones_alone():
    projections = Projections([(4, 6), (6, 6), (8, 6)])
    hidden = [torch.randn(2, 3, width) for width in (4, 6, 8)]
    mapped = projections(hidden)
    assert [x.shape for x in mapped] == [(2, 3, 6)] * 3
    assert mapped[1] is hidden[1]
    assert {name: tuple(p.shape) for name, p in projections.named_parameters()} == {
        "maps.0.weight": (6, 4),
        "maps.2.weight": (6, 8),
    }


def test_projections_that_widen_keep_lengths_and_those_that_narrow_do_not_lengthen():
    wide, narrow = Projections([(4, 6), (8, 6)])([torch.ones(1, 1, 4), torch.ones(1, 1, 8)])
    assert wide.norm().item() == pytest.approx(2.0, rel=1e-5)
    assert 0 < narrow.norm().item() <= 8**0.5


def test_projections_depend_on_their_seed_only_and_draw_from_no_other_stream():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = Projections([(4, 6), (4, 6)])
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    again, other = Projections([(4, 6), (4, 6)]), Projections([(4, 6), (4, 6)], seed=1)
    assert torch.equal(first.maps[0].weight, again.maps[0].weight)
    assert not torch.equal(first.maps[0].weight, other.maps[0].weight)
    assert not torch.equal(first.maps[0].weight, first.maps[1].weight)


def test_projections_learn():
    projections, student, teacher = Projections([(4, 6)]), torch.randn(2, 3, 4), torch.randn(2, 3, 6)
    optimizer = torch.optim.SGD(projections.parameters(), lr=0.1)
    values = []
    for _ in range(5):
        loss = hidden_mse(projections([student])[0], teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values == sorted(values, reverse=True)


def test_a_missing_output_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        Projections([(4, 6), (4, 6)])([torch.ones(1, 1, 4)])


# --- copies ------------------------------------------------------------------------------------------------


def test_copied_layers_are_those_of_distilbert():
    assert copied_layers(6, 12) == (0, 2, 4, 7, 9, 11)
    assert copied_layers(4, 4) == (0, 1, 2, 3)
    assert copied_layers(2, 5) == (0, 4)
    assert copied_layers(1, 5) == (0,)


@given(st.integers(2, 40), st.integers(0, 40))
def test_copied_layers_rise_from_the_first_to_the_last(student, more):
    layers = copied_layers(student, student + more)
    assert list(layers) == sorted(set(layers))
    assert (len(layers), layers[0], layers[-1]) == (student, 0, student + more - 1)


@pytest.mark.parametrize("config", [LSTM, WIDE_LSTM, TRANSFORMER], ids=["lstm", "wide lstm", "transformer"])
def test_a_copy_of_all_layers_is_the_teacher(config):
    teacher, student = model(config, 0), model(config, 1)
    tokens = torch.tensor([[0, 3, 5, 7]])
    assert not torch.equal(student(tokens).logits, teacher(tokens).logits)
    names = copy_layers(student, teacher)
    assert torch.equal(student(tokens).logits, teacher(tokens).logits)
    assert names == [name for name, _ in student.named_parameters()]


def test_a_transformer_copy_has_the_stated_layers_and_is_independent_of_its_teacher():
    teacher, student = model(TRANSFORMER, 0), model(replace(TRANSFORMER, layers=3), 1)
    copy_layers(student, teacher)
    for ours, theirs in enumerate((0, 2, 4)):
        source = teacher.blocks[theirs].state_dict()
        for name, weight in student.blocks[ours].state_dict().items():
            assert torch.equal(weight, source[name])
    for name in ("embedding.weight", "norm.weight", "head.weight"):
        assert torch.equal(student.get_parameter(name), teacher.get_parameter(name))
    before = teacher.embedding.weight.clone()
    with torch.no_grad():
        student.embedding.weight.add_(1)
    assert torch.equal(teacher.embedding.weight, before)


@pytest.mark.parametrize("config", [LSTM, WIDE_LSTM, GRU], ids=["equal widths", "projected", "gru"])
def test_a_recurrent_copy_has_the_stated_layers_and_stays_tied(config):
    teacher, student = model(config, 0), model(replace(config, layers=2), 1)
    copy_layers(student, teacher)
    for ours, theirs in enumerate((0, 3)):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            copied = student.get_parameter(f"{config.kind}.{kind}_l{ours}")
            assert torch.equal(copied, teacher.get_parameter(f"{config.kind}.{kind}_l{theirs}"))
    assert student.head.weight is student.embedding.weight
    assert torch.equal(student.embedding.weight, teacher.embedding.weight)


def test_all_of_a_shape_but_depth_context_and_training_must_agree():
    fields_ = {field.name for field in fields(ModelConfig)}
    assert fields_ - set(COPIED_SHAPE) == {"layers", "context", "norm_eps", "labels", *TRAINING_ONLY}


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (replace(LSTM, layers=5), LSTM, "5 layers cannot be copied from a teacher of 4"),
        (replace(TRANSFORMER, layers=1), LSTM, "kind is transformer in the student and lstm in the teacher"),
        (replace(TRANSFORMER, heads=4), TRANSFORMER, "heads is 4 in the student and 2 in the teacher"),
        (replace(LSTM, vocab_size=10), LSTM, "vocab_size is 10 in the student and 11 in the teacher"),
        (replace(LSTM, hidden=8), LSTM, "hidden is 8 in the student and 6 in the teacher"),
        (replace(LSTM, tied=False), LSTM, "tied is False in the student and True in the teacher"),
        (replace(TRANSFORMER, ffn=16), TRANSFORMER, "ffn is 16 in the student and 12 in the teacher"),
        (replace(TRANSFORMER, tied=True), TRANSFORMER, "tied is True in the student and False in the"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(student, teacher, message):
    source, target = model(teacher, 0), model(student, 1)
    before = {name: weight.clone() for name, weight in target.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        copy_layers(target, source)
    assert all(torch.equal(weight, before[name]) for name, weight in target.state_dict().items())


def test_a_teacher_with_other_weights_is_refused():
    from edgetext.models.ensemble import EnsembleGenerator

    members = [model(LSTM, seed) for seed in (0, 1)]
    with pytest.raises(ConfigError, match=r"the teacher has no lstm\.weight_ih_l0 .* edgetext's own kinds"):
        copy_layers(model(replace(LSTM, layers=1), 2), EnsembleGenerator(members))
