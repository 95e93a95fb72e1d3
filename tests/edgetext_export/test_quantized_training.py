"""The arithmetic that training emulates against the kernels that onnxruntime runs."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from edgetext.checkpoint import model_tensors
from edgetext.models import ModelConfig, build_model
from edgetext.training.quantized import (
    QuantizedGenerator,
    quantised_embedding,
    quantised_linear,
    quantised_lstm,
)
from edgetext_export import build_step_graph
from edgetext_export.builder import FLOAT, INT64, GraphBuilder
from edgetext_export.cells import LayerWeights, add_layer
from edgetext_export.layers import Layers
from edgetext_export.parity import prompt_logits, step_logits
from edgetext_export.recipes import RECIPES
from edgetext_runtime.manifest import Manifest
from edgetext_runtime.session import StepSession

LSTM = ModelConfig("lstm", 67, 32, 48, 2, tied=True)
TRANSFORMER = ModelConfig("transformer", 67, 32, 32, 2, heads=4, kv_heads=2, ffn=48, context=24, tied=True)
CONFIGS = {
    "lstm, tied, projected": LSTM,
    "lstm, untied": replace(LSTM, tied=False),
    "lstm, widths no block divides": replace(LSTM, embedding=21, hidden=35),
    "gru, tied, projected": replace(LSTM, kind="gru"),
    "gru, untied, widths no block divides": replace(LSTM, kind="gru", tied=False, embedding=21, hidden=35),
    "transformer, tied, grouped": TRANSFORMER,
    "transformer, untied, padded heads": replace(TRANSFORMER, tied=False, kv_heads=1),
    "transformer, bottleneck": replace(TRANSFORMER, bottleneck=16, heads=2),
}
LENGTH = 20


def session_of(g):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(g.build("test", {}), options, providers=["CPUExecutionProvider"])


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("width", [128, 320, 96, 80, 41])
def test_products(width, rows):
    """MatMulNBits: blocks of 128, 64, 32, 16, and of 32 with padding."""
    weight, bias, x = numbers(0, 24, width), numbers(1, 24), numbers(2, rows, width)
    g = GraphBuilder()
    g.output(
        Layers(g, RECIPES["int8"]).linear(g.input("x", FLOAT, ["rows", width]), "w", weight, bias, "y"),
        FLOAT,
        ["rows", 24],
    )
    found = session_of(g).run(None, {"x": x})[0]
    expected = quantised_linear(*map(torch.tensor, (x, weight, bias))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - (x @ weight.T + bias)).max() > 1e-2


def test_embedding_rows_are_the_same_to_the_bit():
    weight, ids = numbers(0, 30, 41), np.arange(30)[None]
    g = GraphBuilder()
    layers = Layers(g, RECIPES["int8"])
    layers.table("table", weight, tied=False)
    g.node("Identity", [layers.gather("table", g.input("ids", INT64, [1, "n"]))], "y")
    g.output("y", FLOAT, [1, "n", 41])
    found = session_of(g).run(None, {"ids": ids})[0]
    assert np.array_equal(found, quantised_embedding(torch.tensor(ids), torch.tensor(weight)).numpy())


def test_one_step_of_an_lstm_layer():
    H, E = 48, 33
    w, r, *biases = numbers(0, 4 * H, E), numbers(1, 4 * H, H), numbers(2, 4 * H), numbers(6, 4 * H)
    x, h, c = numbers(3, 1, 1, E), np.tanh(numbers(4, 1, H)), numbers(5, 1, H)
    g = GraphBuilder()
    g.input("x", FLOAT, [1, 1, E])
    for part in "hc":
        g.input(f"past.{part}.0", FLOAT, [1, H])
    add_layer(Layers(g, RECIPES["int8"]), "lstm", 0, "x", LayerWeights(w, r, *biases))
    for part in "hc":
        g.output(f"present.{part}.0", FLOAT, [1, H])
    found = session_of(g).run(None, {"x": x, "past.h.0": h, "past.c.0": c})
    _, *expected = quantised_lstm(
        torch.tensor(x), (torch.tensor(h[None]), torch.tensor(c[None])), [*map(torch.tensor, (w, r, *biases))]
    )
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-5)


def build(config, seed):
    """A float model, the same through the arithmetic, and its exported int8 session."""
    torch.manual_seed(seed)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    graph = build_step_graph(config, {k: v.numpy() for k, v in model_tensors(model).items()}, "int8")
    manifest = Manifest(
        name="test",
        created_by="test",
        architecture=config.kind,
        config=config.to_dict(),
        precision="int8",
        quantisation=graph.quantisation,
        parameters=config.parameters(),
        vocab_size=config.vocab_size,
        context_length=config.context or None,
        special_tokens={"eos": 0, "pad": 1, "unk": None},
        opset=21,
        ort_floor="1.23",
        state=graph.state,
        provenance={},
        licence="none",
    )
    return model, QuantizedGenerator(model), StepSession(graph.model, manifest)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0].numpy()


def compare(config, exported_logits):
    """Median mean error over five models, and all flips: of the emulated model, of the float one.

    The median, as a difference of 1e-7 may meet a tie of the rounding, after which two runs of one arithmetic
    differ by about what quantising activations costs.
    """
    errors, flips = [], []
    for seed in range(5):
        model, quantised, session = build(config, seed)
        tokens = np.random.default_rng(seed).integers(0, config.vocab_size, LENGTH)
        exported = exported_logits(session, tokens)
        found = [logits_of(m, tokens) for m in (quantised, model)]
        errors.append([np.abs(logits - exported).mean() for logits in found])
        flips.append([(logits.argmax(-1) != exported.argmax(-1)).sum() for logits in found])
    return np.median(errors, axis=0), np.sum(flips, axis=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_emulated_model_is_the_exported_one_token_by_token(config):
    (emulated, float_), flips = compare(config, step_logits)
    assert emulated < 0.1 * float_
    assert flips[0] <= 0.1 * flips[1]


@pytest.mark.parametrize(
    "name", ["gru, tied, projected", "transformer, tied, grouped", "transformer, bottleneck"]
)
def test_prompts_of_all_but_lstms_are_emulated_as_well_as_their_steps(name):
    (emulated, float_), _ = compare(CONFIGS[name], prompt_logits)
    assert emulated < 0.1 * float_


def test_an_lstms_prompt_is_quantised_with_one_scale_for_all_its_tokens():
    """Which the emulation does not do: it stays the closer model, but by less."""
    (emulated, float_), _ = compare(LSTM, prompt_logits)
    assert 0.1 * float_ < emulated < 0.9 * float_
