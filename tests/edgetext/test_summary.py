"""What a run's final figures are measured with."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edgetext.checkpoint import save_model
from edgetext.evaluate import summary
from edgetext.evaluate.likelihood import likelihood
from edgetext.models import ModelConfig, build_model
from edgetext.tokenization import train_tokenizer
from edgetext.training.data import Window
from edgetext.training.quantized import QuantizedGenerator
from edgetext_runtime.tokenizer import Tokenizer

TEXTS = ["the red cat sits on the hill.", "the blue dog sleeps by the river."] * 10
TOKENIZER = Tokenizer.from_json(train_tokenizer(TEXTS, "char", 300))
LSTM = ModelConfig("lstm", TOKENIZER.vocab_size, 16, 24, 1, tied=True)


def model(shape: ModelConfig, seed: int = 0):
    torch.manual_seed(seed)
    built = build_model(shape)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return built.eval()


def test_a_sample_of_characters_is_no_longer_than_the_student_can_read():
    shape = ModelConfig(
        "transformer", TOKENIZER.vocab_size, 16, 16, 1, heads=2, kv_heads=1, ffn=24, context=128
    )
    for student, length in ((model(shape), 128), (model(LSTM), 240)):
        student.register_forward_hook(endless)
        assert [len(text) for text in summary._samples(TOKENIZER, student)] == [length] * 3


def endless(module, arguments, output):
    """Leave a model no way to end a text."""
    return output._replace(logits=output.logits.index_fill(-1, torch.tensor([0]), -1e9))


@pytest.fixture
def work(tmp_path: Path):
    """What of a workspace the final figures use: a run that ends in int8 training."""
    for seed, name in enumerate(("teacher", "distilled", "quantized")):
        save_model(tmp_path / name, model(LSTM, seed))
    tokens = torch.randint(2, TOKENIZER.vocab_size, (4, 33))
    windows = [Window(tokens, torch.ones(4, 32, dtype=torch.bool))]
    config = SimpleNamespace(
        assistants=(), refine_steps=0, quantized_steps=1, windows="stream", frontier=False
    )
    return SimpleNamespace(
        directory=tmp_path,
        config=config,
        device=torch.device("cpu"),
        valid=None,
        test=None,
        tokenizer=TOKENIZER,
        labels={},
        windows=lambda stream, limit, labels=None: windows,
        say=lambda line: None,
    )


def test_the_quantized_student_is_measured_in_the_arithmetic_of_its_bundle(work):
    result = summary.summarise(work, None, None)
    rows = {row["name"]: row for row in result["models"]}
    assert {name: row["arithmetic"] for name, row in rows.items()} == {
        "teacher": "fp32",
        "distilled": "fp32",
        "quantized": "int8",
    }
    float_model = model(LSTM, 2)
    windows = work.windows(None, None)
    assert rows["quantized"]["test_perplexity"] == pytest.approx(
        likelihood(QuantizedGenerator(float_model), windows).perplexity, rel=1e-9
    )
    assert rows["quantized"]["test_perplexity"] != likelihood(float_model, windows).perplexity
    assert rows["quantized"]["parameters"] == float_model.parameters_count()
    assert rows["quantized"]["agreement"] is not None
    assert result["student"] == "quantized"
    assert result["cached_teacher"] is None
