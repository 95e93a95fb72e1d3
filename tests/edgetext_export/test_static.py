"""Static 8-bit products: ranges measured on text, by each method, for each class of CPUs."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from step_graphs import (
    GRU,
    LSTM,
    TRANSFORMER,
    lively,
    manifest_of,
    prompt_and_steps,
    reference,
    tokens_for,
    weights_of,
)

from edgetext.errors import CheckpointError, ExportError
from edgetext_export import export_run
from edgetext_export.graph import build_step_graph
from edgetext_export.recipes import RECIPES
from edgetext_export.static import METHODS, calibrate
from edgetext_runtime import Generator, read_bundle
from edgetext_runtime.session import StepSession

STATIC = RECIPES["int8-static"]
UNTIED = replace(TRANSFORMER, tied=False)


def graph_of(config, model, recipe=STATIC, method="percentile", text=None):
    text = tokens_for(config, time=300)[0].astype(np.uint16) if text is None else text
    graph = build_step_graph(config, weights_of(model), recipe)
    return calibrate(graph, recipe, text, method, config.context or None)


def operators(model):
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_close_in_prompts_and_steps(method):
    model = lively(UNTIED)
    graph = graph_of(UNTIED, model, method=method)
    assert operators(graph.model).count("MatMul") == 4 * UNTIED.layers + 1
    assert operators(graph.model).count("QuantizeLinear") > 0
    session = StepSession(graph.model, manifest_of(UNTIED, graph))
    tokens = tokens_for(UNTIED)
    expected = reference(model, tokens)
    for found in prompt_and_steps(session, tokens):
        limit = 0.15 if method == "entropy" else 0.08  # which cuts most
        assert np.abs(found - expected).mean() < limit * expected.std()
    assert graph.quantisation["tensors"]["head.weight"].endswith(f"activations by {method}")


def test_methods_choose_other_ranges():
    config = replace(UNTIED, layers=1)
    model, scales = lively(config), {}
    for method in METHODS:
        tensors = onnx.load_from_string(graph_of(config, model, method=method).model).graph.initializer
        scales[method] = {
            t.name: float(onnx.numpy_helper.to_array(t))
            for t in tensors
            if t.name.endswith("_scale") and not t.dims
        }
    assert scales["minmax"].keys() == scales["percentile"].keys() == scales["entropy"].keys()
    # What was seen is the widest range there can be; cutting the outermost values narrows it.
    for name, scale in scales["minmax"].items():
        assert scales["percentile"][name] <= scale * 1.001
    assert len({tuple(found.values()) for found in scales.values()}) > 1


def test_a_target_that_would_saturate_gets_seven_bits():
    """Weights of products reach ±63 or ±127 as the CPU adds them, in this recipe as in the others."""
    model, largest = lively(UNTIED), {}
    for target in ("generic", "x86-avx2", "x86-vnni", "arm64"):
        graph = graph_of(UNTIED, model, STATIC.at(target))
        weights = [
            onnx.numpy_helper.to_array(t)
            for t in onnx.load_from_string(graph.model).graph.initializer
            if t.name.endswith("weight_quantized")
        ]
        assert len(weights) == 4 * UNTIED.layers + 1
        largest[target] = max(int(np.abs(w.astype(int)).max()) for w in weights)
    assert largest["generic"] == largest["x86-avx2"] <= 64
    assert largest["x86-vnni"] == largest["arm64"] == 127


def test_a_shared_output_layer_keeps_its_blocks():
    graph = graph_of(TRANSFORMER, lively(TRANSFORMER))
    assert operators(graph.model).count("MatMulNBits") == 1
    assert "MatMulNBits" in graph.quantisation["tensors"]["embedding.weight"]


def test_of_an_lstm_only_the_products_around_it():
    graph = graph_of(replace(LSTM, tied=False), lively(replace(LSTM, tied=False)))
    assert operators(graph.model).count("DynamicQuantizeLSTM") == 2
    assert operators(graph.model).count("MatMul") == 2  # projection and output layer
    with pytest.raises(ExportError, match="no kernel for the cells of a GRU"):
        graph_of(GRU, lively(GRU))
    bare = replace(LSTM, hidden=32)
    with pytest.raises(ExportError, match="nothing to quantise in this model: LSTM cells"):
        graph_of(bare, lively(bare))


def test_what_cannot_be_is_refused():
    with pytest.raises(ExportError, match="int8-static is made for onnxruntime; with --portable use --int8"):
        STATIC.as_portable()
    with pytest.raises(ExportError, match="calibration 'median' is unknown; use one of minmax"):
        graph_of(UNTIED, lively(UNTIED), method="median")
    with pytest.raises(ExportError, match="no text is left to calibrate on"):
        graph_of(UNTIED, lively(UNTIED), text=np.zeros(1, np.uint16))


@pytest.mark.parametrize("run", ["transformer"], indirect=True)
class TestExport:
    def test_a_run_is_calibrated_on_its_validation_text(self, run, tmp_path):
        copy = shutil.copytree(run, tmp_path / "run")
        with pytest.raises(CheckpointError, match=r"valid\.npy is missing"):
            export_run(copy, tmp_path / "m.etx", "int8-static", quality_tokens=50)
        np.save(copy / "data" / "valid.npy", np.load(copy / "data" / "test.npy")[::-1])
        report = export_run(copy, tmp_path / "m.etx", "int8-static", calibration="minmax", quality_tokens=200)
        manifest = read_bundle(report.path).manifest
        assert manifest.quantisation["calibration"]["method"] == "minmax"
        assert report.quality.perplexity_increase < 0.01
        assert Generator.load(report.path).verify() == []
        again = export_run(copy, tmp_path / "n.etx", "int8-static", calibration="minmax", quality_tokens=200)
        assert again.path.read_bytes() == report.path.read_bytes()

    def test_other_recipes_take_no_calibration(self, run, tmp_path):
        with pytest.raises(ExportError, match="--calibration is for the recipe int8-static, not int8"):
            export_run(run, tmp_path / "m.etx", calibration="minmax")
