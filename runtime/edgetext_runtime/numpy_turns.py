"""Nodes that turn axes, which costs nothing, and nodes that choose: embeddings, positions, columns.

A node is read by the function of its operator, which takes what its operands are and returns what its outputs
are. Operands and attributes are those that the exporter writes, anything else is refused by
`numpy_network.Network.odd`. Definitions: https://onnx.ai/onnx/operators and
ContribOperators.md of onnxruntime.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .numpy_layers import Columns, Embedding, Positions, Take
from .numpy_network import Hidden, Lowering, Network, StateValue, Symbol
from .sampling import AnyArray


def _transpose(net: Network, operands: list[Symbol]) -> list[Symbol]:
    perm = net.node.attributes.get("perm")
    net.require(set(net.node.attributes) == {"perm"}, isinstance(perm, tuple))
    match operands, perm:
        case [np.ndarray() as weight], (1, 0) if weight.ndim == 2:
            return [weight.T]
        case [Hidden() as x], tuple() if sorted(perm) == list(range(len(x.axes))):
            return [Hidden(x.slot, x.width, "".join(x.axes[axis] for axis in perm))]
    raise net.odd()


def _unsqueeze(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.attributes()
    match operands:
        case [StateValue(past=True, turned=False) as state, np.ndarray() as axes] if axes.tolist() == [0]:
            return [StateValue(state.entry, turned=True)]
        case [Hidden(axes="BX") as x, np.ndarray() as axes] if axes.tolist() == [1]:
            return [Hidden(x.slot, x.width, "B1X")]
    raise net.odd()


def _squeeze(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.attributes()
    match operands:
        case [StateValue(past=False, turned=True) as state, np.ndarray() as axes] if axes.tolist() == [0]:
            return [StateValue(state.entry, past=False)]
        case [Hidden() as x, np.ndarray() as axes] if "D" in x.axes and axes.tolist() == [x.axes.index("D")]:
            return [Hidden(x.slot, x.width, x.axes.replace("D", ""))]
    raise net.odd()


def _reshape(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.attributes()
    match operands:
        case [np.ndarray() as weight, np.ndarray(ndim=1, dtype=np.int64) as shape] if shape.size == 2:
            sizes = shape.tolist()
            net.require(min(sizes) > 0, math.prod(sizes) == weight.size)
            return [weight.reshape(sizes)]
    raise net.odd()


def _gather(net: Network, operands: list[Symbol]) -> list[Symbol]:
    match operands:
        case [np.ndarray(ndim=2) as table, str("tokens" | "tokens.turned" | "tokens.begun") as ids]:
            net.attributes(axis=0)
            net.require(table.dtype == np.float32, table.size, table.flags.c_contiguous)
            return [_embed(net, table, None, table.shape[1], ids)]
        case [np.ndarray(ndim=2) as table, str("places")]:
            net.attributes(axis=0)
            net.require(table.dtype == np.float32, table.size, len(table) >= net.context)
            out = net.hidden(table.shape[1], "BTX")
            net.layers.append(Positions(net.weights.matrix(table), out.slot))
            return [out]
        case [Hidden() as x, str("positions")] if "T" in x.axes:
            net.attributes(axis=x.axes.index("T"))
            out = net.hidden(x.width, x.axes.replace("T", "N"))
            net.layers.append(Take(x.slot, out.slot))
            return [out]
    raise net.odd()


def _gather_blocks(net: Network, operands: list[Symbol]) -> list[Symbol]:
    match operands:
        case [
            np.ndarray(ndim=2) as rows,
            str("tokens" | "tokens.turned" | "tokens.begun") as ids,
            np.ndarray(ndim=2) as scales,
        ]:
            net.require(rows.dtype == np.uint8, scales.dtype == np.float32, scales.size)
            net.require(rows.size, rows.flags.c_contiguous, rows.shape[1] % scales.shape[1] == 0)
            net.require(len(rows) == len(scales))
            block = rows.shape[1] // scales.shape[1]
            net.attributes(bits=8, block_size=block, gather_axis=0, quantize_axis=1)
            return [_embed(net, rows, net.weights.matrix(scales), rows.shape[1], ids)]
    raise net.odd()


def _embed(net: Network, table: AnyArray, scales: Any, width: int, ids: str) -> Hidden:
    out = net.hidden(width, "TBX" if ids == "tokens.turned" else "BTX")
    net.require(len(table) == net.vocab_size)
    net.layers.append(Embedding(table.view(np.uint8), scales, out.slot, int(ids == "tokens.begun")))
    return out


def _slice(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.attributes()
    match operands:
        case [Hidden() as x, np.ndarray() as start, np.ndarray() as end, np.ndarray() as axes]:
            net.require(
                start.tolist() == [0], axes.tolist() == [-1], end.shape == (1,), end.dtype == np.int64
            )
            net.require(0 < end[0] < x.width, x.axes[-1] == "X")
            return [_columns(net, x, 0, int(end[0]))]
    raise net.odd()


def _split(net: Network, operands: list[Symbol]) -> list[Symbol]:
    match operands:
        case [Hidden() as x] if x.axes[-1] == "X" and x.width % 2 == 0:
            net.attributes(axis=len(x.axes) - 1, num_outputs=2)
            half = x.width // 2
            return [_columns(net, x, 0, half), _columns(net, x, half, half)]
    raise net.odd()


def _columns(net: Network, x: Hidden, start: int, width: int) -> Hidden:
    out = net.hidden(width, x.axes)
    net.layers.append(Columns(x.slot, out.slot, start))
    return out


TURNS: Mapping[tuple[str, str], Lowering] = {
    ("", "Gather"): _gather,
    ("", "Reshape"): _reshape,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Squeeze"): _squeeze,
    ("", "Transpose"): _transpose,
    ("", "Unsqueeze"): _unsqueeze,
    ("com.microsoft", "GatherBlockQuantized"): _gather_blocks,
}
"""The functions of this module by domain and operator."""
