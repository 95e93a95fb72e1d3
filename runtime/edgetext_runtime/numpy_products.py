"""Nodes that compute: products, LSTM layers, attention, normalisation, and what is done element by element.

As `numpy_turns`, whose conventions hold.
"""

from collections.abc import Mapping

import numpy as np

from .numpy_attention import Activation, Attention, Norm
from .numpy_layers import Elementwise, Linear, Lstm
from .numpy_network import Hidden, Lowering, Network, StateValue, Symbol
from .sampling import AnyArray, FloatArray

_INT8_COMPUTE = 4
"""The accuracy level at which MatMulNBits rounds activations to 8 bits; none given is float32."""


def _matmul(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.attributes()
    match operands:
        case [Hidden() as x, np.ndarray(ndim=2) as weight] if x.axes[-1] == "X" and weight.size:
            net.require(weight.dtype == np.float32, len(weight) == x.width)
            return [_linear(net, x, net.weights.matrix(weight), weight.shape[1])]
    raise net.odd()


def _matmul_blocks(net: Network, operands: list[Symbol]) -> list[Symbol]:
    bias: Symbol = None
    match operands:
        case [Hidden() as x, np.ndarray(ndim=3) as levels, np.ndarray(ndim=2) as scales, *rest]:
            match rest:
                case [None, None, np.ndarray(ndim=1) as bias]:
                    pass
                case [_, *_]:
                    raise net.odd()
            net.require(levels.size, x.axes[-1] == "X")
            N, blocks, block = levels.shape
            given = dict(net.node.attributes)
            rounded = given.pop("accuracy_level", 0)
            net.require(given == {"K": x.width, "N": N, "bits": 8, "block_size": block})
            net.require(rounded in (0, _INT8_COMPUTE), levels.dtype == np.uint8, scales.dtype == np.float32)
            net.require(scales.shape == (N, blocks), blocks == -(-x.width // block))
            weight = net.weights.blocks(levels, scales)
            y = _linear(net, x, weight if rounded else weight[: x.width], N, block if rounded else 0)
            return [y] if bias is None else _add(net, [y, bias])
    raise net.odd()


def _linear(net: Network, x: Hidden, weight: FloatArray, width: int, block: int = 0) -> Hidden:
    out = net.like(x, width)
    net.layers.append(Linear(x.slot, out.slot, weight, block))
    return out


def _lstm(net: Network, operands: list[Symbol]) -> list[Symbol]:
    match operands:
        case [Hidden(axes="TBX") as x, np.ndarray() as w, np.ndarray() as r, b, None, *states]:
            net.require(w.dtype == r.dtype == np.float32, w.ndim == r.ndim == 3, len(w) == len(r) == 1)
            return _recurrence(net, x, w[0].T, r[0].T, b, states)
    raise net.odd()


def _lstm_bytes(net: Network, operands: list[Symbol]) -> list[Symbol]:
    match operands:
        case [
            Hidden(axes="TBX") as x, np.ndarray() as w, np.ndarray() as r, b, None, h, c, None,
            np.ndarray() as w_scale, np.ndarray() as w_zero, np.ndarray() as r_scale, np.ndarray() as r_zero,
        ]:  # fmt: skip
            net.require(w.dtype == r.dtype == np.int8, w.ndim == r.ndim == 3, len(w) == len(r) == 1)
            net.require(w_scale.dtype == r_scale.dtype == np.float32)
            net.require(w_scale.shape == r_scale.shape == (1, w.shape[2]))
            net.require(not w_zero.any(), not r_zero.any())
            scales = (w_scale[0], r_scale[0])
            return _recurrence(net, x, w[0], r[0], b, [h, c], scales)
    raise net.odd()


def _recurrence(
    net: Network,
    x: Hidden,
    w: AnyArray,
    r: AnyArray,
    bias: Symbol,
    states: list[Symbol],
    scales: tuple[FloatArray, ...] = (),
) -> list[Symbol]:
    """An LSTM layer of w [X, 4H] and r [H, 4H]."""
    H = len(r)
    net.attributes(hidden_size=H)
    net.require(w.shape == (x.width, 4 * H), r.shape == (H, 4 * H), H)
    if not isinstance(bias, np.ndarray):
        net.require(bias is None)
        bias = np.zeros((1, 8 * H), np.float32)
    net.require(bias.shape == (1, 8 * H), bias.dtype == np.float32)
    match states:
        case [StateValue() as h, StateValue() as c]:
            after = [net.advance(state, ("batch", H), turned=True) for state in (h, c)]
            out = net.hidden(H, "TDBX")
            weight = net.weights.gates(w, r, bias[0], scales)
            names = h.entry.input, c.entry.input
            net.layers.append(Lstm(x.slot, out.slot, *names, weight, rounded=bool(scales)))
            return [out, *after]
    raise net.odd()


def _add(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.require(net.node.operator != "Add" or not net.node.attributes)
    return _elementwise(net, np.add, operands)


def _mul(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.attributes()
    return _elementwise(net, np.multiply, operands)


_SPREAD = {"TBX": "BX", "BTX": "B1X"}
"""What is added to all positions of what."""


def _elementwise(net: Network, operation: np.ufunc, operands: list[Symbol]) -> list[Symbol]:
    match operands:
        case [Hidden() as x, Hidden() as y]:
            net.require(x.width == y.width, y.axes in (x.axes, _SPREAD.get(x.axes)))
            operand: int | FloatArray = y.slot
        case [Hidden() as x, np.ndarray() as vector] if x.axes[-1] == "X":
            net.require(vector.shape == (x.width,), vector.dtype == np.float32)
            operand = net.weights.matrix(vector)
        case _:
            raise net.odd()
    out = net.like(x)
    net.layers.append(Elementwise(operation, x.slot, operand, out.slot))
    return [out]


def _activation(net: Network, operands: list[Symbol]) -> list[Symbol]:
    silu = net.node.operator == "QuickGelu"
    net.attributes(**({"alpha": 1.0} if silu else {}))
    match operands:
        case [Hidden() as x]:
            out = net.like(x)
            net.layers.append(Activation(x.slot, out.slot, silu))
            return [out]
    raise net.odd()


def _norm(net: Network, operands: list[Symbol]) -> list[Symbol]:
    simple = net.node.operator == "SimplifiedLayerNormalization"
    net.attributes(axis=-1, epsilon=_epsilon(net), **({"stash_type": 1} if simple else {}))
    match operands:
        case [Hidden() as x, np.ndarray() as weight] if simple:
            return [_normed(net, x, weight)]
        case [Hidden() as x, np.ndarray() as weight, np.ndarray() as bias] if not simple:
            return [_normed(net, x, weight, bias)]
    raise net.odd()


def _add_norm(net: Network, operands: list[Symbol]) -> list[Symbol]:
    net.attributes(epsilon=_epsilon(net))
    match operands:
        case [Hidden() as x, Hidden() as residual, np.ndarray() as weight, *bias]:
            net.require(len(bias) == (net.node.operator == "SkipLayerNormalization"))
            total = _elementwise(net, np.add, [x, residual])[0]
            if isinstance(total, Hidden):
                return [_normed(net, total, weight, *bias), None, None, total]
    raise net.odd()


def _epsilon(net: Network) -> float:
    epsilon = net.node.attributes.get("epsilon")
    if isinstance(epsilon, float) and epsilon > 0:
        return epsilon
    raise net.odd()


def _normed(net: Network, x: Hidden, *parts: Symbol) -> Hidden:
    net.require(x.axes[-1] == "X")
    vectors = [part for part in parts if isinstance(part, np.ndarray)]
    net.require(len(vectors) == len(parts))
    net.require(*(part.shape == (x.width,) and part.dtype == np.float32 for part in vectors))
    out = net.like(x)
    weight, *bias = map(net.weights.matrix, vectors)
    net.layers.append(Norm(x.slot, out.slot, weight, _epsilon(net), *bias))
    return out


def _attention(net: Network, operands: list[Symbol]) -> list[Symbol]:
    match operands:
        case [
            Hidden(axes="BTX") as q, k, v, StateValue() as keys, StateValue() as values,
            str("last_indices"), str("total"), *tables,
        ]:  # fmt: skip
            given = {"rotary_interleaved": 0, "do_rotary": 0, **net.node.attributes}
            heads, K, scale = (given.pop(name, None) for name in ("num_heads", "kv_num_heads", "scale"))
            net.require(given == {"do_rotary": int(len(tables) > 0), "rotary_interleaved": 0})
            net.require(isinstance(heads, int), isinstance(K, int), len(keys.entry.shape) == 4)
            D = keys.entry.shape[3]
            if not (isinstance(heads, int) and isinstance(K, int) and isinstance(D, int)):
                raise net.odd()
            net.require(K > 0 and heads > 0 and heads % K == 0, D % 2 == 0)
            scale = D**-0.5 if scale is None else scale
            if not isinstance(scale, float) or not scale > 0:
                raise net.odd()
            widths = [(heads + 2 * K) * D] if k is v is None else [heads * D, K * D, K * D]
            parts = [part for part in (q, k, v) if isinstance(part, Hidden) and part.axes == "BTX"]
            net.require([part.width for part in parts] == widths)
            match tables:
                case [np.ndarray(ndim=2) as cos, np.ndarray(ndim=2) as sin]:
                    net.require(cos.dtype == sin.dtype == np.float32, cos.shape == sin.shape)
                    net.require(cos.shape[1] * 2 == D, len(cos) >= net.context)
                case []:  # nothing turns
                    cos = np.ones((net.context, D // 2), np.float32)
                    sin = np.zeros_like(cos)
                case _:
                    raise net.odd()
            after = [net.advance(state, ("batch", K, "context", D)) for state in (keys, values)]
            out = net.hidden(heads * D, "BTX")
            slots, names = tuple(part.slot for part in parts), (keys.entry.input, values.entry.input)
            turning = net.weights.rotary(cos, sin)
            net.layers.append(Attention(slots, out.slot, *names, heads, K, scale, *turning))
            return [out, *after]
    raise net.odd()


PRODUCTS: Mapping[tuple[str, str], Lowering] = {
    ("", "Add"): _add,
    ("", "LSTM"): _lstm,
    ("", "LayerNormalization"): _norm,
    ("", "MatMul"): _matmul,
    ("", "Mul"): _mul,
    ("", "SimplifiedLayerNormalization"): _norm,
    ("com.microsoft", "DynamicQuantizeLSTM"): _lstm_bytes,
    ("com.microsoft", "FastGelu"): _activation,
    ("com.microsoft", "GroupQueryAttention"): _attention,
    ("com.microsoft", "MatMulNBits"): _matmul_blocks,
    ("com.microsoft", "QuickGelu"): _activation,
    ("com.microsoft", "SkipLayerNormalization"): _add_norm,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _add_norm,
}
"""The functions of this module by domain and operator."""
