"""The contrast of labels: Bayes' rule written out, its limits, and when it takes part."""

import math
from dataclasses import replace

import pytest
import torch
from moods import config
from step_graphs import LSTM, lively

from edgetext.config import DistillConfig
from edgetext.corpus import CorpusConfig
from edgetext.distill.contrast import label_contrast, other_labels
from edgetext.distill.recipes import RECIPES
from edgetext.distill.targets import LiveTargets
from edgetext.distill.tasks import DistillTask
from edgetext.errors import ConfigError
from edgetext.training.data import Batch
from edgetext.training.settings import OptimizerSettings

V, T = 5, 4


@pytest.fixture
def case():
    """Logits under two labels, targets, and a mask whose second row is short."""
    torch.manual_seed(0)
    own, other = torch.randn(2, 2, T, V, dtype=torch.float64)
    return own, other, torch.randint(V, (2, T)), torch.arange(T)[None] < torch.tensor([[4], [2]])


def test_it_is_the_surprise_at_the_label_by_bayes_rule(case):
    own, other, targets, mask = case
    expected = 0.0
    for row, tokens in enumerate((4, 2)):
        p = [
            math.prod(float(logits[row, t].softmax(-1)[targets[row, t]]) for t in range(tokens))
            for logits in (own, other)
        ]
        expected -= math.log(p[0] / (p[0] + p[1])) / 6
    assert float(label_contrast(own, other, targets, mask)) == pytest.approx(expected, rel=1e-5)


def test_padding_and_the_split_of_a_batch_change_nothing(case):
    own, other, targets, mask = case
    whole = label_contrast(own, other, targets, mask)
    spoilt = [torch.where(mask[..., None], logits, torch.randn_like(logits)) for logits in (own, other)]
    torch.testing.assert_close(label_contrast(*spoilt, targets, mask), whole)
    parts = [
        label_contrast(own[n : n + 1], other[n : n + 1], targets[n : n + 1], mask[n : n + 1]) for n in (0, 1)
    ]
    torch.testing.assert_close((parts[0] * 4 + parts[1] * 2) / 6, whole)


def test_a_label_that_says_nothing_costs_one_bit_a_text(case):
    own, _, targets, mask = case
    assert float(label_contrast(own, own, targets, mask)) == pytest.approx(2 * math.log(2) / 6)


def test_the_other_label_is_another_and_any_other():
    torch.manual_seed(0)
    condition = torch.eye(4)[torch.arange(400) % 4]
    other = other_labels(condition)
    assert other.sum(1).tolist() == [1] * 400
    assert not (other * condition).any()
    pairs = {(int(a), int(b)) for a, b in zip(condition.argmax(1), other.argmax(1), strict=True)}
    assert len(pairs) == 12


class OneBatch:
    """A sampler of one batch, whose rows are longer under their label than by chance."""

    windows, tokens_per_step, by_document, batch_size, length = 4, 12, True, 4, 3

    def batch(self, step, part=0, parts=1):
        tokens = torch.tensor([[0, 3, 4, 0], [0, 5, 6, 0], [0, 3, 6, 0], [0, 5, 4, 0]])
        labels = torch.eye(2)[[0, 1, 0, 1]]
        return Batch(tokens, torch.ones(4, 3, dtype=torch.bool), torch.zeros(4), 1.0, labels)


def task(weight, **dropouts):
    model = lively(replace(LSTM, labels=("a", "b"), **dropouts))
    recipe = RECIPES["no-teacher"]
    return DistillTask("t", model, recipe, 10, OneBatch(), [], OptimizerSettings(1e-3), contrast=weight)


def test_a_training_adds_it_with_its_weight():
    torch.manual_seed(1)
    plain, figures = task(0.0).loss(5, 0)
    assert "label" not in figures
    assert "label" not in task(0.5).loss(4, 0)[1]  # not in the first half
    weighted, figures = task(0.5).loss(5, 0)
    torch.testing.assert_close(weighted, plain + 0.5 * figures["label"])


def test_a_teacher_without_labels_teaches_by_text_alone():
    batch = OneBatch().batch(0)
    teacher = lively(LSTM)
    given = LiveTargets(teacher)(batch, internals=False)
    torch.testing.assert_close(given.logits, teacher(batch.tokens[:, :-1]).logits)
    labelled = LiveTargets(lively(replace(LSTM, labels=("a", "b"))))
    swapped = batch._replace(condition=1 - batch.condition)
    assert (
        labelled(batch, internals=False).logits - labelled(swapped, internals=False).logits
    ).abs().max() > 0.1


def test_both_labels_drop_the_same_units():
    """With a table of zeros the labels say nothing, however much is dropped: one bit a text, exactly."""
    dropping = task(1.0, dropout=0.5, recurrent_dropout=0.3, word_dropout=0.2)
    with torch.no_grad():
        dropping.model.condition.weight.zero_()
    dropping.model.train()
    torch.manual_seed(2)
    assert float(dropping.loss(5, 0)[1]["label"]) == pytest.approx(math.log(2) / 3, rel=1e-5)


def test_the_weight_goes_with_labels_and_is_not_negative():
    options = {"windows": "document", "refine_steps": 0}
    labelled = DistillConfig(corpus=config("moods.csv"), **options)
    assert labelled.contrast == 4.0
    assert replace(labelled, label_contrast=0.0).contrast == 0.0
    assert DistillConfig(corpus=CorpusConfig("text.txt"), label_contrast=3.0).contrast == 0.0
    with pytest.raises(ConfigError, match="--label-contrast is -1"):
        replace(labelled, label_contrast=-1.0)
