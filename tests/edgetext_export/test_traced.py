"""Decoders that the native graph is not written for: traced by torch, run by the same runtime."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
from huggingface_models import BEGIN, SENTENCES, save_decoder
from step_graphs import manifest_of

from edgetext.errors import CheckpointError, ExportError
from edgetext_export import export_run
from edgetext_export.huggingface import read_huggingface
from edgetext_export.parity import measure_parity
from edgetext_export.recipes import RECIPES
from edgetext_export.static import calibrate
from edgetext_export.traced_graph import build_traced_graph
from edgetext_runtime import Generator, PromptState
from edgetext_runtime.errors import DependencyError, InputError
from edgetext_runtime.session import StepSession

SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 48}
NEOX = ("GPTNeoX", SHAPE | {"intermediate_size": 48, "tie_word_embeddings": False})
OPT = ("OPT", SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "tie_word_embeddings": True})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "mill.txt"
    path.write_text("".join(SENTENCES * 6))
    return str(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory, corpus):
    """An untied GPT-NeoX, traced once."""
    directory = tmp_path_factory.mktemp("neox")
    save_decoder(directory, *NEOX)
    return read_huggingface(directory, corpus=corpus, tokens=200)


def measured(source, graph):
    session = StepSession(graph.model, manifest_of(source.config, graph), threads=2)
    return measure_parity(source.model, session, source.stream, limit=150)


def test_the_graph_is_the_torch_model_in_prompts_steps_and_batches(source):
    quality = measured(source, build_traced_graph(source.config, RECIPES["fp32"]))
    assert max(quality.max_logit_error, quality.batch_max_logit_error) < 1e-3
    assert quality.flip_rate_prompt == quality.flip_rate_step == quality.batch_flip_rate == 0
    assert quality.greedy_same == quality.greedy_tokens == 48  # to the end of the cache


def test_recipes_store_its_matrices_like_those_of_any_model(source):
    sizes = {}
    for name in ("fp32", "fp16", "int8", "int8-dynamic", "int4", "int8-head-fp32"):
        graph = build_traced_graph(source.config, RECIPES[name])
        sizes[name] = len(graph.model)
        assert measured(source, graph).perplexity_increase < 0.05
        stored = graph.quantisation.get("tensors", {})
        if RECIPES[name].quantised:
            inside = [tensor for tensor in stored if tensor.startswith("gpt_neox.layers.0.")]
            assert len(inside) == 4
            assert "embedding.weight" in stored or name == "int8-head-fp32"
            assert ("head.weight" in stored) == (name != "int8-head-fp32")
    assert sizes["int4"] < sizes["int8"] < sizes["fp16"] < sizes["fp32"]


def test_static_scales_too(source):
    recipe = RECIPES["int8-static"]
    graph = build_traced_graph(source.config, recipe)
    graph = calibrate(graph, recipe, source.calibration(), context=source.config.context)
    assert measured(source, graph).perplexity_increase < 0.05
    assert sum("QDQ" in how for how in graph.quantisation["tensors"].values()) == 5


@pytest.fixture(scope="module")
def made(tmp_path_factory, corpus):
    """The bundle of a tied OPT, whose id 0 is read by another row than it is written by; model, tokenizer."""
    folder = tmp_path_factory.mktemp("opt")
    model, tokenizer, _ = save_decoder(folder / "theirs", *OPT)
    output = folder / "m.etx"
    report = export_run(folder / "theirs", output, "fp32", corpus=corpus, quality_tokens=150, mobile=True)
    return report, model, tokenizer


class TestBundle:
    def test_it_scores_as_torch_does(self, made):
        report, model, tokenizer = made
        text = SENTENCES[0]
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        with torch.no_grad():
            logits = model(torch.tensor([[model.config.bos_token_id, *ids]])).logits[0, :-1]
        left_out = {tokenizer.token_to_id(BEGIN), *range(tokenizer.get_vocab_size(), model.config.vocab_size)}
        logits[:, sorted(left_out)] = -torch.inf
        expected = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
        generator = Generator.load(report.path)
        np.testing.assert_allclose(generator.score(text).logprobs, expected, atol=2e-3)
        assert generator.manifest.config["traced"] == "opt"
        assert generator.verify() == []

    def test_its_caches_work_in_place_and_in_parts(self, made):
        generator = Generator.load(made[0].path)
        whole = generator.generate("The old miller", max_new_tokens=12, seed=3).tokens
        state = generator.prefill("The old")
        again = PromptState.from_bytes(state.to_bytes(), generator)
        for kept in (state.fork(), again, state):  # writing after a past leaves it as it was
            assert generator.generate(" miller", state=kept, max_new_tokens=12, seed=3).tokens == whole
        prompts = ["The old miller", "12 mills"]
        texts = generator.generate_batch(prompts, max_new_tokens=6, temperature=0)
        assert [t.tokens for t in texts] == [
            generator.generate(prompt, max_new_tokens=6, temperature=0).tokens for prompt in prompts
        ]

    def test_the_context_ends_where_the_cache_does(self, made):
        generator = Generator.load(made[0].path)
        assert generator.generate("The", max_new_tokens=100, temperature=1.5, seed=8).finish_reason in (
            "context",
            "eos",
        )
        with pytest.raises(InputError, match="48"):
            generator.generate(" ".join(SENTENCES))

    def test_the_numpy_backend_says_that_it_cannot(self, made):
        with pytest.raises(Exception, match="numpy"):
            Generator.load(made[0].path, provider="numpy").generate("The")


class TestRefusals:
    def test_without_the_tracer(self, tmp_path, monkeypatch):
        save_decoder(tmp_path, *NEOX)
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(DependencyError, match=r"onnxscript: pip install 'edgetext\[hf\]'"):
            read_huggingface(tmp_path)

    def test_a_weight_that_is_not_finite(self, tmp_path):
        from safetensors.torch import load_file, save_file

        save_decoder(tmp_path, *NEOX)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"][0, 0] = float("inf")
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ExportError, match=r"mlp\.dense_h_to_4h\.weight has 1 values that are NaN"):
            read_huggingface(tmp_path)

    def test_a_model_without_keys_and_values(self, tmp_path):
        save_decoder(tmp_path, "Mamba", {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4})
        with pytest.raises((ExportError, CheckpointError), match="no key/value cache"):
            read_huggingface(tmp_path)
