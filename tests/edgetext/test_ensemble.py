"""Several generators as one: how much text they can read together."""

import pytest
import torch

from edgetext.models import ModelConfig, build_model
from edgetext.models.base import sample_tokens
from edgetext.models.ensemble import EnsembleGenerator

LSTM = ModelConfig("lstm", 11, 6, 8, 1)
GRU = ModelConfig("gru", 11, 6, 8, 2)


def transformer(context):
    return ModelConfig("transformer", 11, 8, 8, 1, heads=2, kv_heads=1, ffn=12, context=context)


def ensemble(*shapes):
    torch.manual_seed(0)
    return EnsembleGenerator([build_model(shape) for shape in shapes]).eval()


@pytest.mark.parametrize(
    ("shapes", "context"),
    [
        ((LSTM, GRU, LSTM), 0),
        ((LSTM, transformer(12)), 12),
        ((transformer(12), LSTM), 12),
        ((transformer(20), LSTM, transformer(12)), 12),
    ],
    ids=["recurrent", "lstm first", "transformer first", "two contexts"],
)
def test_the_context_is_the_least_of_its_transformers(shapes, context):
    model = ensemble(*shapes)
    assert model.config.context == context
    assert model.config.vocab_size == 11
    length = context or 30
    assert len(sample_tokens(model, 3, length, seed=1)) == 3
    if context:
        with pytest.raises(ValueError, match="exceed the context of 12"):
            model(torch.zeros(1, context + 1, dtype=torch.int64))
