"""What every matrix of a model reads: second moments of its inputs over text, from the float32 step graph.

They are what `edgetext_export.rounding` goes by. The graph is asked rather than the torch model, because in
it every matrix has the name, the shape and the order of columns in which it will be stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetext_export.builder import FLOAT
from edgetext_export.calibration import windows
from edgetext_export.graph import StepGraph
from edgetext_export.rounding import FloatArray
from edgetext_runtime.backend import load_model

Moments = Mapping[str, FloatArray]
"""[K,K] of every matrix [N,K], by its name."""
WINDOWS = 64
"""Pieces of text that are read."""
WIDEST = 3072
"""Columns of the widest matrix that is looked at: moments take columns² numbers."""


class _Read(NamedTuple):
    """A matrix and the tensor it is multiplied with."""

    matrix: str
    tensor: str
    later: bool = False
    """Whether that is y [T,1,B,H] of a recurrent layer, read one step after it was written."""
    looked_up: bool = False
    """Whether the matrix is also the embedding."""


def read_moments(graph: StepGraph, text: NDArray[np.unsignedinteger[Any]], context: int | None) -> Moments:
    """Return the means [K,K] of x_i x_j over tokens for every matrix [N,K], by its name.

    Args:
        graph: of the recipe fp32.
        text: token ids, not those that quality is measured on.
        context: most tokens the model can see; None: no limit.

    Raises:
        ExportError: if the text is too short.
    """
    pieces = list(windows(graph.state, text, context, count=WINDOWS, stride=1))
    model = onnx.load_from_string(graph.model)
    del graph
    reads = list(_reads(model.graph))
    tensors = sorted({read.tensor for read in reads})
    _cut(model.graph, tensors)
    data = model.SerializeToString()
    del model
    session = load_model(data, "the float32 graph", threads=0)  # as many as there are
    del data
    asked = {value.name for value in session.get_inputs()}
    sums: dict[tuple[str, bool], FloatArray] = {}
    for piece in pieces:
        found = session.run(tensors, {name: value for name, value in piece.items() if name in asked})
        values = dict(zip(tensors, found, strict=True))
        for tensor, later in {(read.tensor, read.later) for read in reads}:
            x = values[tensor][:-1] if later else values[tensor]
            x = x.reshape(-1, x.shape[-1])  # [tokens, K]
            total = sums.setdefault((tensor, later), np.zeros((x.shape[1], x.shape[1]), np.float32))
            total += x.T @ x
    tokens = sum(piece["tokens"].size for piece in pieces)
    for total in sums.values():
        total /= tokens
    moments = {read.matrix: sums[read.tensor, read.later] for read in reads}
    for read in reads:
        if read.looked_up:  # then each number counts by itself: as much again on the diagonal
            total = moments[read.matrix]
            moments[read.matrix] = total + total.diagonal().mean() * np.eye(len(total), dtype=np.float32)
    return moments


def _reads(graph: onnx.GraphProto) -> Iterator[_Read]:
    """Products with a stored matrix, and recurrent layers with their two; none wider than `WIDEST`."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    for node in graph.node:
        if node.op_type in ("LSTM", "GRU"):
            found = [_Read(node.input[1], node.input[0]), _Read(node.input[2], node.output[0], later=True)]
            widths = [shapes[read.matrix][2] for read in found]  # [1,GH,K]
        elif node.op_type == "MatMul":
            stored = turned.get(node.input[1], node.input[1])
            tied = stored != node.input[1]
            known = len(shapes.get(stored, ())) == 2
            found = [_Read(stored, node.input[0], looked_up=tied)] if known else []
            widths = [shapes[read.matrix][int(tied)] for read in found]  # [K,N] or [N,K]
        else:
            continue
        yield from (read for read, width in zip(found, widths, strict=True) if width <= WIDEST)


def _cut(graph: onnx.GraphProto, tensors: Sequence[str]) -> None:
    """Leave what it takes to compute some tensors, and make them the outputs."""
    needed = set(tensors)
    for index in reversed(range(len(graph.node))):
        if needed.intersection(graph.node[index].output):
            needed.update(graph.node[index].input)
        else:
            del graph.node[index]
    for entries in (graph.initializer, graph.input):
        for index in reversed(range(len(entries))):
            if entries[index].name not in needed:
                del entries[index]
    del graph.output[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in tensors)
