"""Every recipe on every kind of model: as close to torch as its bits allow, as small as it says."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from step_graphs import (
    CONFIGS,
    LSTM,
    TRANSFORMER,
    lively,
    manifest_of,
    reference,
    run,
    tokens_for,
    weights_of,
)  # fmt: skip

from edgetext.errors import ExportError
from edgetext.models import build_model
from edgetext_export.graph import build_step_graph
from edgetext_export.quantize import quantise_blocks
from edgetext_export.recipes import COLUMNS, FULL_LEVELS, RECIPES, find_recipe
from edgetext_runtime.session import StepSession

TOLERANCE = {"int8": 0.05, "int4": 0.45, "fp16": 2e-3, "fp32": 1e-5}
"""Mean logit error over the spread of the logits."""
SHAPES = [CONFIGS[n] for n in ("lstm, tied, projected", "lstm, widths no block divides", "lstm, untied")]
SHAPES += [CONFIGS[n] for n in ("gru, tied, projected", "gru, widths no block divides")]
SHAPES += [CONFIGS[n] for n in ("transformer, tied, grouped", "transformer, untied, one key head")]


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: f"{config.kind}-{config.hidden}-{config.tied}")
@pytest.mark.parametrize("name", RECIPES)
def test_logits_are_as_close_as_the_bits_allow_in_prompts_and_steps(name, config):
    model, recipe = lively(config), RECIPES[name]
    graph = build_step_graph(config, weights_of(model), recipe)
    session = StepSession(graph.model, manifest_of(config, graph))
    tokens = tokens_for(config)
    expected = reference(model, tokens)
    whole = run(session, tokens, session.new_state(), range(11)).logits
    state = session.new_state()
    steps = np.concatenate([run(session, tokens[:, t : t + 1], state, [0]).logits for t in range(11)], axis=1)
    for found in (whole, steps):
        assert np.abs(found - expected).mean() < TOLERANCE[recipe.precision] * expected.std()


@pytest.mark.parametrize("config", [LSTM, TRANSFORMER], ids=["lstm", "transformer"])
def test_fewer_bits_make_a_smaller_file(config):
    wide = replace(config, vocab_size=4096)
    weights = weights_of(build_model(wide))
    sizes = {name: len(build_step_graph(wide, weights, recipe).model) for name, recipe in RECIPES.items()}
    for smaller, larger in (("int4", "int8"), ("int8", "fp16"), ("fp16", "fp32")):
        assert sizes[smaller] < 0.7 * sizes[larger]
    assert sizes["int4"] < sizes["int4-mixed"] < sizes["int8"]


@pytest.mark.parametrize("width", [64, 41, 288])
def test_four_bits_use_the_scale_with_the_least_error(width):
    weight = np.random.default_rng(0).standard_normal((24, width)).astype(np.float32)
    q = quantise_blocks(weight, bits=4)
    error = np.abs(q.dequantised() - weight)
    assert q.dequantised().shape == weight.shape
    assert error.max() <= np.abs(weight).max() / 3
    plain = np.abs(weight).max(axis=1, keepdims=True) / 7
    assert np.square(error).mean() < np.square(np.rint(weight / plain) * plain - weight).mean()
    assert not quantise_blocks(np.zeros((3, 32), np.float32), bits=4).dequantised().any()


def test_an_lstm_can_be_cells_whose_products_have_the_bits_of_all_others():
    for bits in (8, 4):
        graph = build_step_graph(LSTM, weights_of(lively(LSTM)), f"int{bits}-cells")
        nodes = onnx.load_from_string(graph.model).graph.node
        assert [node.op_type for node in nodes].count("Scan") == LSTM.layers
        assert not any("LSTM" in node.op_type for node in nodes)
        for part in ("input", "recurrent"):
            assert graph.quantisation["tensors"][f"lstm.1.{part}"].startswith(f"MatMulNBits, {bits} bits")


def test_a_target_without_vnni_halves_the_levels_of_columns():
    weights = weights_of(lively(LSTM))
    largest = {}
    for target in ("generic", "x86-vnni", "x86-avx2", "arm64"):
        graph = build_step_graph(LSTM, weights, RECIPES["int8"].at(target))
        tensors = {t.name: t for t in onnx.load_from_string(graph.model).graph.initializer}
        largest[target] = int(np.abs(onnx.numpy_helper.to_array(tensors["lstm.0.input"])).max())
    assert largest == {"generic": 63, "x86-avx2": 63, "x86-vnni": FULL_LEVELS, "arm64": FULL_LEVELS}


def test_single_tensors_can_be_given_another_scheme():
    name = "blocks.0.ffn.down.weight"
    recipe = replace(RECIPES["int8"], chosen={name: COLUMNS})
    graph = build_step_graph(TRANSFORMER, weights_of(lively(TRANSFORMER)), recipe)
    kinds = {tensor: text.partition(",")[0] for tensor, text in graph.quantisation["tensors"].items()}
    assert kinds.pop(name) == "DynamicQuantizeMatMul"
    assert set(kinds.values()) == {"MatMulNBits"}


def test_what_is_unknown_is_refused():
    with pytest.raises(ExportError, match="recipe 'int5' is unknown; use one of int8, int8-dynamic"):
        find_recipe("int5")
    with pytest.raises(ExportError, match="target 'z80' is unknown; use one of generic"):
        RECIPES["int8"].at("z80")
