"""Hugging Face directories straight into bundles: their logits, their tokenizer, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
import transformers
from huggingface_models import BEGIN, END, SENTENCES, byte_level_tokenizer

from edgetext.errors import CheckpointError, ExportError
from edgetext_export import export_run
from edgetext_runtime import Generator, read_bundle

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
KINDS = {
    "llama": ("Llama", LLAMA),
    "llama, tied, begins otherwise": ("Llama", LLAMA | {"tie_word_embeddings": True}),
    "llama 3, scaled rotary, wide heads": ("Llama", LLAMA | {"head_dim": 12, "rope_parameters": SCALED}),
    "mistral, window": ("Mistral", LLAMA | {"sliding_window": 40}),
    "qwen 2, biases": ("Qwen2", LLAMA | {"attention_bias": True}),
    "gpt-2": ("GPT2", GPT2),
    "gpt-2, untied, relu": ("GPT2", GPT2 | {"tie_word_embeddings": False, "activation_function": "relu"}),
}


def save_model(directory, kind, options):
    """A directory as `save_pretrained` leaves it, random weights, with a byte-level tokenizer."""
    tokenizer = byte_level_tokenizer("gpt2" if kind == "GPT2" else "llama3")
    end, begin = (tokenizer.token_to_id(token) for token in (END, END if kind == "GPT2" else BEGIN))
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=tokenizer.get_vocab_size() + 3, eos_token_id=end, bos_token_id=begin, **options
    )
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return model.eval(), tokenizer, begin


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "mill.txt"
    path.write_text("".join(SENTENCES * 3))
    return str(path)


@pytest.mark.parametrize(("kind", "options"), KINDS.values(), ids=KINDS)
def test_a_directory_becomes_a_bundle_that_scores_as_torch_does(kind, options, corpus, tmp_path):
    model, tokenizer, begin = save_model(tmp_path / "theirs", kind, options)
    report = export_run(tmp_path / "theirs", tmp_path / "m.etx", "fp32", corpus=corpus, quality_tokens=200)
    assert report.quality.max_logit_error < 1e-3
    standard = export_run(
        tmp_path / "theirs", tmp_path / "p.etx", "fp32", corpus=corpus, quality_tokens=50, portable=True
    )
    assert standard.quality.max_logit_error < 1e-3
    assert report.quality.flip_rate_prompt == report.quality.flip_rate_step == 0
    text = SENTENCES[0]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    with torch.no_grad():
        logits = model(torch.tensor([[begin, *ids]])).logits[0, :-1]
    # The bundle leaves the model's other special tokens out, so the logits are normalised over the rest.
    special = [tokenizer.token_to_id(t) for t in (BEGIN, END)]
    left_out = {i for i in special if i is not None} - {model.config.eos_token_id}
    left_out |= set(range(tokenizer.get_vocab_size(), model.config.vocab_size))
    logits[:, sorted(left_out)] = -torch.inf
    expected = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
    providers = ["cpu"] if options.get("activation_function") == "relu" else ["cpu", "numpy"]
    for provider in providers:
        generator = Generator.load(report.path, provider=provider)
        np.testing.assert_allclose(generator.score(text).logprobs, expected, atol=2e-3)
        assert generator.verify() == []


def test_int8_is_the_default_and_close(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "theirs", *KINDS["llama, tied, begins otherwise"])
    report = export_run(tmp_path / "theirs", corpus=corpus, quality_tokens=200)
    assert report.path.resolve() == tmp_path / "theirs-int8.etx"
    assert report.quality.flip_rate_prompt < 0.2
    manifest = read_bundle(report.path).manifest
    assert manifest.provenance["source"] == {
        "format": "transformers",
        "architecture": "llama",
        "name": "theirs",
    }
    assert manifest.provenance["corpus"]["source"] == "mill.txt"
    numpy = Generator.load(report.path, provider="numpy")
    assert numpy.generate("The old", seed=3, temperature=0).tokens


class TestContext:
    def context(self, tmp_path, corpus, kind, **arguments):
        save_model(tmp_path / "theirs", *KINDS[kind])
        report = export_run(
            tmp_path / "theirs", tmp_path / "m.etx", corpus=corpus, quality_tokens=50, **arguments
        )
        return read_bundle(report.path).manifest.context_length

    def test_the_models_own_unless_told_otherwise(self, tmp_path, corpus):
        assert self.context(tmp_path, corpus, "gpt-2", context=32) == 32
        with pytest.raises(ExportError, match="--context is 65; this model takes 2 to 64"):
            export_run(tmp_path / "theirs", tmp_path / "n.etx", corpus=corpus, context=65)

    def test_a_window_ends_it(self, tmp_path, corpus):
        assert self.context(tmp_path, corpus, "mistral, window") == 40


class TestRefusals:
    @pytest.fixture
    def theirs(self, tmp_path):
        save_model(tmp_path / "theirs", *KINDS["llama"])
        return tmp_path / "theirs"

    def refused(self, directory, error, message, **arguments):
        before = sorted(directory.rglob("*"))
        with pytest.raises(error, match=message):
            export_run(directory, **arguments)
        assert sorted(directory.rglob("*")) == before

    def test_another_architecture(self, tmp_path):
        config = transformers.GPTNeoXConfig(
            vocab_size=430, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32, eos_token_id=0, bos_token_id=0,
        )  # fmt: skip
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "neox")
        byte_level_tokenizer("gpt2").save(str(tmp_path / "neox" / "tokenizer.json"))
        self.refused(tmp_path / "neox", ExportError, "is a gpt_neox model; those exported straight")

    def test_a_tokenizer_that_is_not_byte_level(self, theirs):
        document = json.loads((theirs / "tokenizer.json").read_text())
        document["model"]["byte_fallback"] = True
        (theirs / "tokenizer.json").write_text(json.dumps(document))
        self.refused(theirs, ExportError, "byte_fallback")
        (theirs / "tokenizer.json").unlink()
        self.refused(theirs, ExportError, "has no tokenizer.json")

    def test_weights_that_are_missing_or_cut_off(self, theirs):
        path = theirs / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refused(theirs, CheckpointError, "cannot be read as a causal language model")
        path.unlink()
        self.refused(theirs, CheckpointError, "holds no weights")

    def test_a_weight_that_is_not_finite(self, theirs, corpus):
        from safetensors.torch import load_file, save_file

        tensors = load_file(theirs / "model.safetensors")
        tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
        save_file(tensors, theirs / "model.safetensors", {"format": "pt"})
        self.refused(theirs, ExportError, "blocks.1.ffn.down.weight has 1 values that are NaN", corpus=corpus)

    def test_rotary_frequencies_that_change(self, tmp_path):
        dynamic = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
        save_model(tmp_path / "theirs", "Llama", LLAMA | {"rope_parameters": dynamic})
        self.refused(tmp_path / "theirs", ExportError, "change with the length of the text")

    def test_the_options_of_a_directory_are_not_a_runs(self, spoilt, corpus):
        self.refused(spoilt, ExportError, "are for Hugging Face directories", corpus=corpus)

    def test_an_empty_directory(self, theirs):
        shutil.rmtree(theirs)
        with pytest.raises(ExportError, match="not a directory"):
            export_run(theirs)
