"""Generators with labels: the condition is part of the state, changes what is written, and is asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from step_graphs import GRU, LSTM, TRANSFORMER, lively, tokens_for

from edgetext.checkpoint import load_model, save_model
from edgetext.errors import ConfigError
from edgetext.evaluate.candidates import mixture
from edgetext.models.base import begin, label_rows, sample_tokens
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.models.presets import resolve_model

LABELS = ("good", "bad", "neither")
CONFIGS = {config.kind: replace(config, labels=LABELS) for config in (LSTM, GRU, TRANSFORMER)}


@pytest.fixture(params=CONFIGS)
def model(request):
    return lively(CONFIGS[request.param])


def one(label: int) -> torch.Tensor:
    return torch.eye(len(LABELS))[label : label + 1]


def test_steps_carry_the_condition_that_the_text_began_with(model):
    tokens = torch.from_numpy(tokens_for(model.config))
    with torch.no_grad():
        whole = model(tokens, condition=one(1)).logits
        output = begin(model, tokens[:, :1], one(1))
        rows = [output.logits]
        for place in range(1, tokens.shape[1]):
            output = model(tokens[:, place : place + 1], output.state)
            rows.append(output.logits)
        other = model(tokens, condition=one(2)).logits
    torch.testing.assert_close(torch.cat(rows, 1), whole, atol=1e-4, rtol=1e-4)
    assert len(output.state) == model.config.state_tensors
    assert (other - whole).abs().max() > 0.1


def test_rows_of_a_batch_have_conditions_of_their_own(model):
    tokens = torch.from_numpy(tokens_for(model.config)).expand(3, -1)
    with torch.no_grad():
        batch = model(tokens, condition=torch.eye(3)).logits
        alone = torch.cat([model(tokens[:1], condition=one(n)).logits for n in range(3)])
    torch.testing.assert_close(batch, alone, atol=1e-4, rtol=1e-4)


def test_texts_take_the_labels_in_turn_or_the_one_given(model):
    mixed = sample_tokens(model, 6, 8, seed=1, batch=4)
    for label in range(3):
        own = sample_tokens(model, 6, 8, seed=1, batch=4, condition=one(label)[0])
        assert own[label::3] == mixed[label::3]
        assert own != mixed


def test_a_checkpoint_keeps_labels_and_their_table(model, tmp_path):
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert again.parameters_count() == model.config.parameters() == model.parameters_count()
    assert torch.equal(again.condition.weight, model.condition.weight)


def test_a_missing_or_unwanted_condition_is_refused(model):
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"condition is None.*good"):
        model(tokens)
    with pytest.raises(ValueError, match=r"condition is \[1, 3\]"):
        model(tokens, condition=one(0))
    with pytest.raises(ValueError, match="unconditioned"):
        lively(replace(model.config, labels=()))(tokens, condition=one(0))


def test_an_ensemble_needs_the_same_labels_and_passes_them_on(model):
    twin = lively(replace(model.config, labels=LABELS))
    tokens = torch.from_numpy(tokens_for(model.config))
    with torch.no_grad():
        together = EnsembleGenerator([model, twin])(tokens, condition=one(0)).logits
        alone = model(tokens, condition=one(0)).logits.log_softmax(-1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="the same labels"):
        EnsembleGenerator([model, lively(replace(model.config, labels=("a", "b")))])


def test_an_unconditioned_shape_is_written_as_before():
    assert "labels" not in LSTM.to_dict()
    assert CONFIGS["lstm"].parameters() == LSTM.parameters() + 3 * LSTM.embedding
    with pytest.raises(ConfigError, match="different names"):
        replace(LSTM, labels=("good", "good"))
    with pytest.raises(ConfigError, match="labels=3"):
        resolve_model("lstm-student,labels=3", 100)


def test_the_mixture_is_the_even_mean_of_the_texts_probabilities(model):
    row = tokens_for(model.config)[0]
    with torch.no_grad():
        logits = begin(model, torch.from_numpy(row).expand(3, -1), label_rows(model.config, 3)).logits
    log_p = logits.double().log_softmax(-1).numpy()
    steps = mixture(log_p, row.tolist())
    np.testing.assert_allclose(np.logaddexp.reduce(steps, axis=-1), 0, atol=1e-9)
    places = np.arange(len(row) - 1)
    by_label = log_p[:, places, row[1:]].sum(1)
    whole = np.logaddexp.reduce(by_label) - np.log(3)
    assert steps[places, row[1:]].sum() == pytest.approx(whole)
