"""Hugging Face teachers: the same numbers as ``transformers``, behind the interface of every generator."""

import json
import math

import pytest
import torch
from huggingface_models import save_teacher

from edgetext.errors import CheckpointError, ConfigError
from edgetext.evaluate.likelihood import decode_speed, likelihood
from edgetext.models.base import sample_tokens
from edgetext.models.config import ModelConfig
from edgetext.models.huggingface import (
    HuggingFaceGenerator,
    huggingface_sha256,
    is_huggingface,
    load_huggingface,
    special_ids,
)
from edgetext.training.data import Window
from edgetext_runtime.errors import DependencyError

pytest.importorskip("transformers")
FAMILIES = ("gpt2", "llama")
TOKENS = torch.tensor([[1, 40, 7, 300, 12, 99, 250, 3], [5, 5, 8, 13, 21, 34, 55, 89]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Family → (directory, the transformers model that was saved there)."""
    made = {}
    for family in FAMILIES:
        directory = tmp_path_factory.mktemp(family)
        made[family] = (directory, save_teacher(directory, family))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_hidden_states_are_those_of_transformers(saved, family):
    directory, theirs = saved[family]
    ours = load_huggingface(directory)
    with torch.no_grad():
        expected = theirs(TOKENS, output_hidden_states=True)
        output = ours(TOKENS)
    assert not any(module.training for module in ours.modules())
    assert torch.equal(output.logits, expected.logits)
    assert len(output.hidden) == ours.config.layers + 1
    for hidden, other in zip(output.hidden, expected.hidden_states, strict=True):
        assert torch.equal(hidden, other)
    assert output.attention == output.values == ()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5, 6, 7), (3,), (2, 6)])
def test_stepping_with_the_state_equals_one_pass(saved, family, cuts):
    model = load_huggingface(saved[family][0])
    with torch.no_grad():
        whole = model(TOKENS).logits
        state, pieces = None, []
        for part in torch.tensor_split(TOKENS, cuts, dim=1):
            before = None if state is None else [tensor.clone() for tensor in state]
            output = model(part, state)
            if before is not None:  # a state can be used again: a step does not write into it
                assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))
            state = output.state
            pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=2e-4, rtol=1e-4)
    assert len(state) == 2 * model.config.layers
    assert all(tensor.shape[2] == TOKENS.shape[1] for tensor in state)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_stand_for_tokens(saved, family):
    model = load_huggingface(saved[family][0])
    one_hot = torch.nn.functional.one_hot(TOKENS, model.config.vocab_size).float()
    with torch.no_grad():
        soft = model.embed_distribution(one_hot)
        torch.testing.assert_close(soft, model.embedding(TOKENS))
        torch.testing.assert_close(model(None, embeddings=soft).logits, model(TOKENS).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_works_on_every_generator_works_on_it(saved, family):
    model = load_huggingface(saved[family][0])
    texts = sample_tokens(model, 4, 12, seed=3)
    assert texts == sample_tokens(model, 4, 12, seed=3)
    assert all(len(text) <= 12 for text in texts)
    found = likelihood(model, [Window(TOKENS, torch.ones(2, 7, dtype=torch.bool))])
    with torch.no_grad():
        log_p = saved[family][1](TOKENS[:, :-1]).logits.log_softmax(-1)
    expected = -log_p.gather(-1, TOKENS[:, 1:, None]).double().mean()
    assert math.isclose(found.nll, float(expected), rel_tol=1e-6)
    assert decode_speed(model, tokens=4, repeats=1) > 0


def test_the_configuration_describes_the_shape(saved):
    gpt2, llama = (load_huggingface(saved[family][0]) for family in FAMILIES)
    sizes = gpt2.config.vocab_size, llama.config.vocab_size
    assert gpt2.config == ModelConfig(
        "transformer", sizes[0], 32, 32, 2, heads=4, kv_heads=4, ffn=128, context=64, tied=True
    )
    assert llama.config == ModelConfig(
        "transformer", sizes[1], 32, 32, 3, heads=4, kv_heads=2, ffn=48, context=64, tied=False
    )
    assert llama.parameters_count() == saved["llama"][1].num_parameters()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_model_is_saved_with_its_tokenizer(saved, family, tmp_path):
    directory = saved[family][0]
    model = load_huggingface(directory).train()
    loss = model(TOKENS).logits.logsumexp(-1).mean()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.1 * parameter.grad)
    model.save(tmp_path / "copy")
    again = load_huggingface(tmp_path / "copy")
    assert torch.equal(again(TOKENS).logits, model.eval()(TOKENS).logits)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (directory / name).read_bytes()
    assert not any(path.name.startswith(".") for path in (tmp_path / "copy").iterdir())
    assert huggingface_sha256(tmp_path / "copy") != huggingface_sha256(directory)


def test_the_fingerprint_is_of_the_content(saved, tmp_path):
    directory = saved["gpt2"][0]
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert huggingface_sha256(tmp_path) == huggingface_sha256(directory)


def test_padding_after_a_text_changes_nothing_before_it(saved):
    model = load_huggingface(saved["llama"][0])
    padded = torch.cat([TOKENS[:, :5], torch.ones(2, 3, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded).logits[:, :5], model(TOKENS[:, :5]).logits)


def test_what_a_generator_refuses_it_refuses(saved):
    model = load_huggingface(saved["gpt2"][0])
    with pytest.raises(ValueError, match="exceed the context of 64"):
        model(torch.zeros(1, 65, dtype=torch.int64))
    with pytest.raises(ValueError, match="unconditioned"):
        model(TOKENS, condition=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="exactly one"):
        model(TOKENS, embeddings=torch.zeros(2, 8, 32))
    with pytest.raises(ValueError, match="exactly one"):
        model(None)


def test_only_safetensors_are_read(saved, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((saved["gpt2"][0] / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"no weights \(\*\.safetensors\)"):
        load_huggingface(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(CheckpointError, match=r"pickles.*from_pretrained"):
        load_huggingface(tmp_path)


def _copy(source, target, **changes):
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_remote_code_is_not_run(saved, tmp_path):
    copy = _copy(
        saved["gpt2"][0], tmp_path, model_type="own", auto_map={"AutoModelForCausalLM": "evil.Model"}
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    with pytest.raises(CheckpointError, match="cannot be read as a causal language model"):
        load_huggingface(copy)


def test_incomplete_and_damaged_weights_are_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match=r"lacks .* weights"):
        load_huggingface(_copy(saved["gpt2"][0], tmp_path, n_layer=3))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_huggingface(tmp_path)


def test_adapters_are_refused(saved, tmp_path):
    _copy(saved["gpt2"][0], tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge it"):
        load_huggingface(tmp_path)


def test_models_without_a_key_value_cache_are_refused():
    from transformers import MambaConfig, MambaForCausalLM

    tiny = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ConfigError, match="key/value cache"):
        HuggingFaceGenerator(MambaForCausalLM(tiny))


def test_which_directories_are_of_transformers(saved, tmp_path):
    assert is_huggingface(saved["gpt2"][0])
    assert not is_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"kind": "lstm", "vocab_size": 3}))
    assert not is_huggingface(tmp_path)
    with pytest.raises(CheckpointError, match="not a transformers model"):
        load_huggingface(tmp_path)


def test_the_ids_that_end_and_begin_a_text(saved, tmp_path):
    assert special_ids(saved["gpt2"][0]) == (0, 0)
    assert special_ids(saved["llama"][0]) == (1, 0)
    path = tmp_path / "config.json"
    for values, found in [
        ({"eos_token_id": [7, 9], "bos_token_id": None}, (7, 7)),
        ({"eos_token_id": 7, "bos_token_id": 2}, (7, 2)),
    ]:
        path.write_text(json.dumps({"vocab_size": 10, **values}))
        assert special_ids(tmp_path) == found
    path.write_text(json.dumps({"vocab_size": 10}))
    with pytest.raises(CheckpointError, match="no eos_token_id"):
        special_ids(tmp_path)
    path.write_text(json.dumps({"vocab_size": 10, "eos_token_id": 10}))
    with pytest.raises(CheckpointError, match="vocab_size is 10"):
        special_ids(tmp_path)


def test_a_missing_package_names_the_command(saved, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(DependencyError, match=r"pip install 'edgetext\[hf\]'"):
        load_huggingface(saved["gpt2"][0])
