"""The page that explains a text."""

import pytest
import torch

from edgetext.adversarial.discriminators import Discriminator
from edgetext.adversarial.resample import Rater
from edgetext.adversarial.settings import DiscriminatorConfig
from edgetext.checkpoint import save_model, write_json
from edgetext.distill.directory import file_sha256
from edgetext.errors import ConfigError
from edgetext.evaluate.explain import explain, page
from edgetext.models import ModelConfig, build_model
from edgetext.tokenization import train_tokenizer
from edgetext_runtime.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_corpus):
    """A run with a Transformer student and a discriminator."""
    directory = tmp_path_factory.mktemp("explain") / "run"
    directory.mkdir()
    tokenizer = train_tokenizer(tiny_corpus.read_text().splitlines(), "word", 100)
    (directory / "tokenizer.json").write_bytes(tokenizer)
    torch.manual_seed(0)
    vocabulary = Tokenizer.from_json(tokenizer).vocab_size
    shape = {"heads": 2, "kv_heads": 1, "ffn": 16, "context": 32}
    save_model(directory / "student", build_model(ModelConfig("transformer", vocabulary, 16, 16, 2, **shape)))
    network = Discriminator(DiscriminatorConfig("lstm-cnn", embedding=8, hidden=6), vocabulary)
    student = file_sha256(directory / "student" / "model.safetensors")
    Rater(network, 12, 0, 1, 1.0, student).save(directory / "discriminator")
    write_json(directory / "discriminator" / "stage.json", {})
    return directory


def test_figures_are_probabilities_and_the_teacher_is_compared(run):
    found = explain(run, "the red cat sits", teacher=run)
    assert [t.text for t in found.tokens] == ["the", "red", "cat", "sits"]
    for number, token in enumerate(found.tokens):
        assert 0 < token.probability < 1
        assert token.teacher_probability == pytest.approx(token.probability)
        assert token.kl == pytest.approx(0, abs=1e-9)
        assert token.saliency is not None
        assert sum(found.attention[number]) == pytest.approx(1, abs=1e-5)
        assert all(weight == 0 for weight in found.attention[number][number + 1 :])


def test_the_page_is_self_contained_and_escapes_the_text(run):
    text = page(explain(run, "the cat < dog"))
    assert "http" not in text
    assert "<script" not in text
    assert "Attention" in text
    assert "Discriminator: logit" in text


def test_texts_that_cannot_be_explained_are_refused(run):
    for text in ("", "the " * 40):
        with pytest.raises(ConfigError, match="--text"):
            explain(run, text)
