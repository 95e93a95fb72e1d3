"""Static 8-bit products: activations rounded to a scale measured beforehand, by onnxruntime's quantiser.

The other 8-bit recipes measure the scale of every activation as it comes. Here text is run through the
float32 graph once, the range of what each product reads is recorded, and what a method makes of it is stored:
``minmax`` all of it, ``entropy`` the range that loses least information, ``percentile`` all but the outermost
0.001 %.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetext.errors import ExportError
from edgetext_export.builder import check_model
from edgetext_export.calibration import WINDOW, windows
from edgetext_export.delivery import scratch_folder
from edgetext_export.graph import StepGraph
from edgetext_export.recipes import FULL_LEVELS, Recipe

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")
WINDOWS, STRIDE = 32, 4
"""Pieces of text, and how many tokens lie between two of which logits are computed."""
TOKENS = WINDOWS * WINDOW
"""Tokens that the ranges are measured on."""
DEFAULT: Method = "percentile"
"""The method that did best on a trained student (docs/results/export.md)."""
PERCENTILE = 99.999
BINS = {"minmax": 0, "entropy": 256, "percentile": 2048}
"""Of the histograms: of onnxruntime's own 128 the entropy method has one range to choose from, all of it."""
_NAMES = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def calibrate(
    graph: StepGraph,
    recipe: Recipe,
    text: NDArray[np.unsignedinteger[Any]],
    method: Method = DEFAULT,
    context: int | None = None,
) -> StepGraph:
    """Return the graph with every float32 product of a stored matrix between quantisation nodes (QDQ).

    Weights get a scale per output, activations one for all; with `Recipe.levels` below 127 weights use 7
    bits, because x86 without VNNI adds two products of bytes in 16 bits (onnxruntime's ``reduce_range``).

    Args:
        graph: built by the recipe ``int8-static``: products still in float32.
        recipe: the same recipe, at its target.
        text: token ids that the ranges are measured on, not those that quality is measured on.
        method: how a range is made of what was seen.
        context: most tokens the model can see; None: no limit.

    Raises:
        ExportError: if no product can be quantised so, the text is too short, or the method is unknown.
    """
    if method not in METHODS:
        raise ExportError(f"calibration {method!r} is unknown; use one of {', '.join(METHODS)}")
    model = onnx.load_from_string(graph.model)
    products = _products(model)
    if any(node.op_type == "Scan" for node in model.graph.node):
        raise ExportError("int8-static has no kernel for the cells of a GRU; export with --int8")
    if not products:
        raise ExportError(
            "int8-static has nothing to quantise in this model: LSTM cells have no static kernel, and an "
            "output layer that shares the embedding keeps its blocks; export with --int8"
        )
    _name_types(model, products)
    pieces = list(windows(graph.state, text, context, count=WINDOWS, stride=STRIDE))
    quantised = _quantise(model, products, pieces, recipe, method)
    weights = "7 bits" if recipe.levels < FULL_LEVELS else "8 bits"
    record = f"QDQ MatMul, weights {weights} with one scale per output, activations by {method}"
    tensors = {**graph.quantisation["tensors"], **{node.input[1]: record for node in products}}
    seen = sum(piece["tokens"].size for piece in pieces)
    kept = {**graph.quantisation, "tensors": tensors, "calibration": {"method": method, "tokens": seen}}
    return replace(graph, model=quantised, quantisation=kept)


def _products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Products with a matrix that is stored as it is."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored.discard("condition.weight")
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stored]


def _name_types(model: onnx.ModelProto, products: Sequence[onnx.NodeProto]) -> None:
    """Say that inputs and outputs of products are float32.

    The calibrator skips what it knows no type of, and onnx infers none behind onnxruntime's own operators.
    """
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    for name in dict.fromkeys(name for node in products for name in (node.input[0], node.output[0])):
        if name not in known:
            model.graph.value_info.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )


def _quantise(
    model: onnx.ModelProto,
    products: Sequence[onnx.NodeProto],
    pieces: Sequence[Mapping[str, NDArray[Any]]],
    recipe: Recipe,
    method: Method,
) -> bytes:
    """Measure ranges and quantise with onnxruntime's tools."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    with redirect_stdout(StringIO()):  # it tells of every tensor
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=recipe.levels < FULL_LEVELS,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=_ranges(model, pieces, method),
            nodes_to_quantize=[node.name for node in products],
            nodes_to_exclude=[],
            op_types_to_quantize=["MatMul"],
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    made.producer_name = "edgetext"
    del made.graph.value_info[:]
    check_model(made)
    return made.SerializeToString(deterministic=True)


def _ranges(model: onnx.ModelProto, pieces: Sequence[Mapping[str, NDArray[Any]]], method: Method) -> Any:
    """What the calibrator makes of the pieces: onnxruntime's ``TensorsData``."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    left = iter(pieces)
    with scratch_folder() as folder:
        source = folder / "model.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            ["MatMul"],
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=getattr(CalibrationMethod, _NAMES[method]),
            extra_options={"num_bins": BINS[method], "percentile": PERCENTILE, "symmetric": False},
        )
        calibrator.collect_data(SimpleNamespace(get_next=lambda: next(left, None)))
        return calibrator.compute_data()
