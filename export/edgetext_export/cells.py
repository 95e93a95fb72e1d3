"""One recurrent layer: a fused operator where there is one, else a loop over cells.

==================  =============================================  ===========================================
                    LSTM                                           GRU
==================  =============================================  ===========================================
floating point      LSTM                                           GRU
quantised           DynamicQuantizeLSTM, or cells where asked for  cells: onnxruntime has no quantised GRU
quantised portable  cells                                          cells
==================  =============================================  ===========================================

Cells are a `Scan` over time; the input's share of the gates is one product over all steps before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from edgetext_export.builder import FLOAT, INT8, MICROSOFT, GraphBuilder
from edgetext_export.layers import Layers
from edgetext_export.quantize import BlockQuantised, FloatArray, quantise_blocks, quantise_columns, unpack

ONNX_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
"""ONNX's gates by their index in torch's order: i, o, f, c of i, f, c, o; z, r, h of r, z, n."""
CELL_ORDER = {"lstm": (0, 1, 3, 2), "gru": (0, 1, 2)}
"""The gates of a cell by the same: those through a sigmoid first, that through a tanh last."""
STATE = {"lstm": "hc", "gru": "h"}
"""What a layer carries from step to step, each [B,H]."""


class LayerWeights(NamedTuple):
    """One recurrent layer, G gates (LSTM 4, GRU 3) in torch's order."""

    input: FloatArray
    """[GH, in]."""
    recurrent: FloatArray
    """[GH, H]."""
    input_bias: FloatArray
    """[GH]."""
    recurrent_bias: FloatArray
    """[GH]."""

    def ordered(self, order: Sequence[int]) -> LayerWeights:
        """The same with its gates in another order."""
        gates = (np.split(part, len(order)) for part in self)
        return LayerWeights(*(np.concatenate([part[gate] for gate in order]) for part in gates))


def add_layer(layers: Layers, kind: str, layer: int, x: str, weights: LayerWeights) -> str:
    """Write a layer over x [T,B,in] from its part of the past state to the present one; returns y [T,B,H]."""
    g, name = layers.g, f"{kind}.{layer}"
    past, present = ([f"{when}.{part}.{layer}" for part in STATE[kind]] for when in ("past", "present"))
    if layers.recipe.cells(kind):
        return _cells(layers, kind, name, x, weights, past, present)
    initial = [g.node("Unsqueeze", [value, g.ints(0)]) for value in past]  # [1,B,H]
    write = _quantised_lstm if layers.recipe.quantised else _fused
    y, *final = write(layers, kind, name, x, weights.ordered(ONNX_ORDER[kind]), initial)
    for value, output in zip(final, present, strict=True):
        g.node("Squeeze", [value, g.ints(0)], output)
    return g.node("Squeeze", [y, g.ints(1)])


def _fused(
    layers: Layers, kind: str, name: str, x: str, weights: LayerWeights, initial: Sequence[str]
) -> tuple[str, ...]:
    """The standard LSTM or GRU: y [T,1,B,H] and the state after the last step, [1,B,H] each.

    torch's GRU multiplies with the reset gate after the recurrent product and its bias (linear_before_reset).
    """
    g = layers.g
    w = layers.floating(f"{name}.input", weights.input[None])
    r = layers.floating(f"{name}.recurrent", weights.recurrent[None])
    outputs = [f"{name}.{part}" for part in ("y", *STATE[kind])]
    inputs = [x, w, r, _biases(g, name, weights), "", *initial]
    attributes: dict[str, Any] = {"hidden_size": weights.recurrent.shape[1]}
    if kind == "gru":
        attributes["linear_before_reset"] = 1
    return g.nodes(kind.upper(), inputs, outputs, **attributes)


def _quantised_lstm(
    layers: Layers, kind: str, name: str, x: str, weights: LayerWeights, initial: Sequence[str]
) -> tuple[str, ...]:
    """DynamicQuantizeLSTM, one scale per gate and unit, zero points all zero; gives what `_fused` does."""
    g, recipe = layers.g, layers.recipe
    parts = {"input": weights.input, "recurrent": weights.recurrent}
    b = _biases(g, name, weights)
    (w, *w_scale), (r, *r_scale) = (_gates(layers, f"{name}.{part}", m) for part, m in parts.items())
    outputs = [f"{name}.{part}" for part in ("y", *STATE[kind])]
    inputs = [x, w, r, b, "", *initial, "", *w_scale, *r_scale]
    stored = "" if recipe.recurrent_bits == 8 else f", stored in {recipe.recurrent_bits} bits"
    how = f"{stored}{layers.rounded(f'{name}.input')}"
    layers.record[name] = f"DynamicQuantizeLSTM, ±{recipe.levels}, one scale per gate and unit{how}"
    hidden = weights.recurrent.shape[1]
    return g.nodes("DynamicQuantizeLSTM", inputs, outputs, MICROSOFT, hidden_size=hidden)


def _biases(g: GraphBuilder, name: str, weights: LayerWeights) -> str:
    """Both biases of a fused operator, [1,2GH]."""
    return g.constant(f"{name}.bias", np.concatenate([weights.input_bias, weights.recurrent_bias])[None])


def _cells(
    layers: Layers,
    kind: str,
    name: str,
    x: str,
    weights: LayerWeights,
    past: Sequence[str],
    present: Sequence[str],
) -> str:
    """A layer as a Scan over cells: y [T,B,H]."""
    g, H = layers.g, weights.recurrent.shape[1]
    weights = weights.ordered(CELL_ORDER[kind])
    bias: FloatArray | None = weights.recurrent_bias
    input_bias = weights.input_bias
    if kind == "lstm":  # a GRU's reset gate is multiplied with the recurrent bias as well
        input_bias, bias = input_bias + weights.recurrent_bias, None
    gates = layers.linear(x, f"{name}.input", weights.input, input_bias)  # [T,B,GH]
    body = g.body(name)
    state = [body.input(f"{name}.{part}.before", FLOAT, ["batch", H]) for part in STATE[kind]]
    step = body.input(f"{name}.step", FLOAT, ["batch", len(weights.input)])
    product = replace(layers, g=body).linear(state[0], f"{name}.recurrent", weights.recurrent, bias)
    after = [f"{name}.{part}.after" for part in STATE[kind]]
    if kind == "lstm":
        _lstm_cell(body, H, step, product, state[1], after)
    else:
        _gru_cell(body, H, step, product, state[0], after[0])
    y = body.node("Identity", [after[0]], f"{name}.y.step")
    for value in (*after, y):
        body.output(value, FLOAT, ["batch", H])
    outputs = [*present, f"{name}.y"]
    return g.nodes("Scan", [*past, gates], outputs, body=body.as_body(), num_scan_inputs=1)[-1]


def _lstm_cell(g: GraphBuilder, H: int, step: str, product: str, c: str, after: Sequence[str]) -> None:
    """Write h, c [B,H] after one step, from both shares of the gates i, f, o, c [B,4H] and c before it."""
    total = g.node("Add", [step, product])
    open_, new = g.split(total, -1, 3 * H, H)
    i, f, o = g.split(g.node("Sigmoid", [open_]), -1, H, H, H)
    kept, added = g.node("Mul", [f, c]), g.node("Mul", [i, g.node("Tanh", [new])])
    g.node("Add", [kept, added], after[1])
    g.node("Mul", [o, g.node("Tanh", [after[1]])], after[0])


def _gru_cell(g: GraphBuilder, H: int, step: str, product: str, h: str, after: str) -> None:
    """Write h [B,H] after one step, from both shares of the gates r, z, n [B,3H] and h before it."""
    step_open, step_new = g.split(step, -1, 2 * H, H)
    past_open, past_new = g.split(product, -1, 2 * H, H)
    r, z = g.split(g.node("Sigmoid", [g.node("Add", [step_open, past_open])]), -1, H, H)
    new = g.node("Tanh", [g.node("Add", [step_new, g.node("Mul", [r, past_new])])])
    change = g.node("Mul", [z, g.node("Sub", [h, new])])
    g.node("Add", [new, change], after)  # (1 - z) * new + z * h


def _gates(layers: Layers, name: str, weight: FloatArray) -> list[str]:
    """Recurrent weights [4H,K] as int8 [1,K,4H] with scales and zero points [1,4H]."""
    g, recipe, moments = layers.g, layers.recipe, layers.moments.get(name)
    zeros = g.constant(f"const.zeros.{len(weight)}", np.zeros((1, len(weight)), np.int8))
    if recipe.recurrent_bits == 8:
        q = quantise_columns(weight.T, recipe.levels, moments)  # [K,4H]
        w = g.constant(name, q.values[None])
        return [w, g.constant(f"{name}.scales", q.scales[None]), zeros]
    coarse = quantise_blocks(weight, bits=4, moments=moments)
    exact = coarse.dequantised()  # [4H,K], what the four bits say
    fine = quantise_columns(exact.T, recipe.levels)
    scales = g.constant(f"{name}.scales", fine.scales[None])
    return [_widened(g, name, coarse, fine.scales), scales, zeros]


def _widened(g: GraphBuilder, name: str, q: BlockQuantised, scales: FloatArray) -> str:
    """4-bit blocks as the int8 columns [1,K,4H] that the kernel takes, computed once when it loads."""
    N, blocks, _ = q.values.shape
    factor = q.scales / scales[:, None]  # levels of the kernel per level of four bits
    g.packed(name, unpack(q.values, 4).astype(np.int16) - q.zero_point)  # [N, blocks, block]
    wide = g.node("Cast", [name], to=FLOAT)
    wide = g.node("Mul", [wide, g.constant(f"{name}.factors", factor[..., None].astype(np.float32))])
    wide = g.node("Reshape", [g.node("Round", [wide]), g.ints(1, N, blocks * q.block)])
    if q.padded != q.width:
        wide = g.node("Slice", [wide, g.ints(0), g.ints(q.width), g.ints(-1)])
    return g.node("Transpose", [g.node("Cast", [wide], to=INT8)], perm=[0, 2, 1])
