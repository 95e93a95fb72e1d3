"""What LSTMs and GRUs drop in training: units, recurrent weights, words; and nothing when they are judged."""

import pytest
import torch

from edgetext.errors import ConfigError
from edgetext.models import ModelConfig, build_model
from edgetext.models.recurrent import LockedDropout

V = 37


def recurrent(kind, **changes):
    torch.manual_seed(0)
    return build_model(ModelConfig(kind, V, 12, 20, 2, tied=True, **changes))


def lstm(**changes):
    return recurrent("lstm", **changes)


@pytest.fixture
def tokens():
    return torch.randint(2, V, (4, 9), generator=torch.Generator().manual_seed(1))


def test_locked_dropout_drops_a_unit_at_all_positions_of_a_row_or_at_none():
    torch.manual_seed(0)
    dropped = LockedDropout(0.4)(torch.ones(6, 7, 50))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.6]))
    assert not torch.equal(dropped[0], dropped[1])
    assert abs(float(dropped.mean()) - 1) < 0.1


@pytest.mark.parametrize(
    "changes",
    [{"dropout": 0.5, "locked_dropout": True}, {"recurrent_dropout": 0.5}, {"word_dropout": 0.5}],
    ids=["locked", "recurrent", "word"],
)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_dropouts_act_in_training_only_and_cost_no_parameters(changes, kind, tokens):
    plain, model = recurrent(kind), recurrent(kind, **changes)
    assert model.parameters_count() == plain.parameters_count() == model.config.parameters()
    assert torch.equal(model.eval()(tokens).logits, plain.eval()(tokens).logits)
    model.train()
    assert not torch.allclose(model(tokens).logits, model(tokens).logits)


def test_dropped_recurrent_weights_get_no_gradient(tokens):
    model = lstm(recurrent_dropout=0.5).train()
    model(tokens).logits.square().mean().backward()
    gradient = model.lstm.weight_hh_l0.grad
    assert 0.4 < float((gradient == 0).float().mean()) < 0.6
    assert model.lstm.weight_ih_l0.grad.ne(0).all()


def test_a_dropped_word_is_zero_wherever_it_stands_in_the_batch():
    model = lstm(word_dropout=0.5).train()
    tokens = torch.arange(2, V).repeat(2, 3)  # every word six times
    embedded = model(tokens).hidden[0]  # [2,3·(V-2),12]
    copies = embedded.view(6, V - 2, 12)
    assert torch.equal(copies, copies[:1].expand_as(copies))
    dropped = (copies[0] == 0).all(-1)
    assert 0 < int(dropped.sum()) < V - 2
    kept = copies[0][~dropped] / model.embedding.weight[2:][~dropped]
    torch.testing.assert_close(kept, torch.full_like(kept, 2.0))


def test_soft_tokens_have_no_words_to_drop(tokens):
    model = lstm(word_dropout=0.9).train()
    soft = model.embed_distribution(torch.nn.functional.one_hot(tokens, V).float())
    assert torch.equal(model(None, embeddings=soft).hidden[0], soft)


def test_a_transformer_refuses_the_dropouts_of_an_lstm():
    shape = {"heads": 4, "kv_heads": 4, "ffn": 24, "context": 24}
    for changes in ({"locked_dropout": True}, {"recurrent_dropout": 0.1}, {"word_dropout": 0.1}):
        with pytest.raises(ConfigError, match="belong to an lstm"):
            ModelConfig("transformer", V, 16, 16, 2, **shape, **changes)
    with pytest.raises(ConfigError, match=r"recurrent_dropout is 1\.0"):
        ModelConfig("lstm", V, 16, 16, 2, recurrent_dropout=1.0)


def test_shapes_without_these_dropouts_are_written_as_before_there_were_any():
    plain = ModelConfig("lstm", V, 16, 16, 2, dropout=0.3)
    assert not {"locked_dropout", "recurrent_dropout", "word_dropout"} & set(plain.to_dict())
    full = ModelConfig("lstm", V, 16, 16, 2, locked_dropout=True, recurrent_dropout=0.5, word_dropout=0.1)
    assert ModelConfig.from_dict(full.to_dict()) == full
