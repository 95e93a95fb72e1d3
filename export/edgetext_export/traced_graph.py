"""A traced decoder as a step graph: caches in place, matrices as the recipe stores them, sampling inside.

Nodes are taken over as they are, but products with a stored matrix and the look-up of tokens go through
`Layers`, like those of the native graph. The traced graph wants the past as long as it is and gives the rows
it adds; around it stand a slice of each cache and a write of those rows into it. The two never meet: the
slice reads rows before ``past_length``, the write touches rows from there on, so past and present may be one
buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetext.errors import ExportError
from edgetext_export.builder import FLOAT, INT64, GraphBuilder
from edgetext_export.graph import StepGraph, describe
from edgetext_export.layers import Layers
from edgetext_export.recipes import Recipe
from edgetext_export.recurrent import LOGITS
from edgetext_export.sampling import add_sampling, declare_sampling_inputs
from edgetext_export.traced import Traced, fingerprint
from edgetext_export.transformer import PAST_LENGTH
from edgetext_runtime.bundle import StateTensor

_TABLE = "embedding.weight"


def build_traced_graph(
    traced: Traced, recipe: Recipe, moments: Mapping[str, NDArray[np.float32]] | None = None
) -> StepGraph:
    """Write the step graph of a traced decoder; inputs and outputs are those of `build_step_graph`.

    Raises ExportError if the graph has parts that cannot be taken over, or is too large for one file.
    """
    state = traced_state(traced)
    g = GraphBuilder()
    g.input("tokens", INT64, ["batch", "time"])
    g.input("positions", INT64, ["n"])
    declare_sampling_inputs(g)
    g.input(PAST_LENGTH, INT64, [1])
    for entry in state:
        g.input(entry.input, FLOAT, entry.shape)
    writer = _Writer(g, Layers(g, recipe, moments or {}), traced)
    for index, entry in enumerate(state):
        seen = g.node("Slice", [entry.input, g.ints(0), PAST_LENGTH, g.ints(2)])
        writer.rename[f"past.{index}"] = seen
    writer.take_over()
    g.output(LOGITS, FLOAT, ["batch", "n", traced.vocab_size])
    add_sampling(g, LOGITS, traced.vocab_size)
    places: dict[int, str] = {}
    for index, entry in enumerate(state):
        heads = traced.caches[index][0]
        if heads not in places:
            places[heads] = _places(g, heads)
        g.node("ScatterND", [entry.input, places[heads], writer.rename[f"new.{index}"]], entry.output)
        g.output(entry.output, FLOAT, entry.shape)
    metadata, docs = describe(recipe.precision, state)
    model = g.build(f"edgetext-{traced.architecture}", metadata, docs)
    return StepGraph(model, recipe.precision, state, writer.layers.manifest(), g.opset)


def traced_state(traced: Traced) -> tuple[StateTensor, ...]:
    """Keys and values of every layer, [B, K, context, D] each."""
    names = [f"{part}.{layer}" for layer in range(traced.layers) for part in ("key", "value")]
    return tuple(
        StateTensor(f"past.{name}", f"present.{name}", ("batch", heads, "context", width), kind="kv_cache")
        for name, (heads, width) in zip(names, traced.caches, strict=True)
    )


def _places(g: GraphBuilder, heads: int) -> str:
    """Where new rows go in a cache, [B, K, T, 3]: their sequence, head and position."""
    batch = g.node("Shape", ["tokens"], start=0, end=1)
    time = g.node("Shape", ["tokens"], start=1, end=2)
    grid = g.node("Concat", [batch, g.ints(heads), time], axis=0)  # [B, K, T]
    zero, one = g.scalar(0, np.int64), g.scalar(1, np.int64)
    begin = g.node("Squeeze", [PAST_LENGTH])
    end = g.node("Add", [begin, g.node("Squeeze", [time])])
    sequences = g.node("Range", [zero, g.node("Squeeze", [batch]), one])
    positions = g.node("Range", [begin, end, one])
    axes = (
        g.node("Unsqueeze", [sequences, g.ints(1, 2)]),  # [B,1,1]
        g.constant(f"const.heads.{heads}", np.arange(heads, dtype=np.int64)[None, :, None]),  # [1,K,1]
        g.node("Unsqueeze", [positions, g.ints(0, 1)]),  # [1,1,T]
    )
    wide = [g.node("Unsqueeze", [g.node("Expand", [axis, grid]), g.ints(3)]) for axis in axes]
    return g.node("Concat", wide, axis=3)


def _turns(attributes: Mapping[str, Any]) -> bool:
    """Whether a Transpose of a matrix turns it; without ``perm`` it does."""
    return list(attributes.get("perm", (1, 0))) == [1, 0]


class _Writer:
    """Takes nodes over, one after the other."""

    def __init__(self, g: GraphBuilder, layers: Layers, traced: Traced) -> None:
        graph = traced.model.graph
        self.g, self.layers, self._traced = g, layers, traced
        self.rename = {"tokens": "tokens", "positions": "positions", "logits": LOGITS, "": ""}
        self._stored: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._turned: dict[str, str] = {}
        self._named: dict[str, str] = {}

    def take_over(self) -> None:
        """Write every node of the traced graph."""
        for node in self._traced.model.graph.node:
            if any(attribute.HasField("g") for attribute in node.attribute):
                raise ExportError(f"the traced graph has a {node.op_type} with a graph of its own inside")
            if not self._special(node):
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                inputs = [self._name(name) for name in node.input]
                self.g.nodes(node.op_type, inputs, [self._new(name) for name in node.output], **attributes)

    def _special(self, node: onnx.NodeProto) -> bool:
        """Write a node through `Layers`, or remember it; returns whether it was one of those."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        match node.op_type:
            case "Transpose" if self._is_matrix(node.input[0]) and _turns(attributes):
                self._turned[node.output[0]] = node.input[0]  # written when somebody else wants it
                return True
            case "Gather" if not attributes.get("axis") and self._matrix_name(node.input[0]) == _TABLE:
                self._look_up(node)
                return True
            case "MatMul":
                weight = self._weight(node.input[1], turned=True)
                if weight is not None:
                    self._product(node, node.input[1], weight, None)
                return weight is not None
            case "Gemm":
                return self._gemm(node, attributes)
        return False

    def _gemm(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> bool:
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        if any(attributes.get(name, value) != value for name, value in plain.items()):
            return False
        weight = self._weight(node.input[1], turned=not attributes.get("transB", 0))
        has_bias = len(node.input) > 2 and node.input[2] != ""
        if weight is None or (has_bias and node.input[2] not in self._stored):
            return False
        bias = onnx.numpy_helper.to_array(self._stored[node.input[2]]) if has_bias else None
        if bias is not None and bias.shape != weight.shape[:1]:  # broadcast: left to Gemm
            return False
        self._product(node, node.input[1], weight, bias)
        return True

    def _look_up(self, node: onnx.NodeProto) -> None:
        table = onnx.numpy_helper.to_array(self._stored[node.input[0]])
        self.layers.table(_TABLE, table, tied=self._traced.tied)
        self.rename[node.output[0]] = self.layers.gather(_TABLE, self._name(node.input[1]))

    def _product(
        self, node: onnx.NodeProto, stored: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None
    ) -> None:
        name = self._matrix_name(self._turned.get(stored, stored)) or f"traced.{stored}"
        x, output = self._name(node.input[0]), self._new(node.output[0])
        if name == _TABLE:
            self.layers.tied(x, name, bias, output)
        else:
            self.layers.linear(x, name, weight, bias, output)

    def _weight(self, name: str, *, turned: bool) -> NDArray[np.float32] | None:
        """Rows [N,K] of a stored matrix; `turned`: what is stored is [K,N]. None if it is not stored."""
        if name in self._turned:
            name, turned = self._turned[name], not turned
        if not self._is_matrix(name):
            return None
        matrix = onnx.numpy_helper.to_array(self._stored[name])
        return matrix.T if turned else matrix

    def _is_matrix(self, name: str) -> bool:
        tensor = self._stored.get(name)
        return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == FLOAT

    def _matrix_name(self, stored: str) -> str:
        """Name of the parameter that a stored matrix is; empty if it is none."""
        if not self._is_matrix(stored):
            return ""
        if stored not in self._named:
            matrix = onnx.numpy_helper.to_array(self._stored[stored])
            self._named[stored] = self._traced.names.get(fingerprint(matrix), "")
        return self._named[stored]

    def _name(self, name: str) -> str:
        """Name of a tensor here; constants are stored when they are first asked for."""
        if name in self._turned and name not in self.rename:
            inner = self._name(self._turned[name])
            self.rename[name] = self.g.node("Transpose", [inner], self._new(name), perm=[1, 0])
        if name not in self.rename:
            tensor = self._stored[name]
            own = f"traced.{name.removeprefix('generator.model.')}"
            self.rename[name] = self.g.constant(own, onnx.numpy_helper.to_array(tensor))
        return self.rename[name]

    def _new(self, name: str) -> str:
        """Name of an output of a node, apart from the names that the builder makes up."""
        return self.rename.setdefault(name, f"traced.{name}")
