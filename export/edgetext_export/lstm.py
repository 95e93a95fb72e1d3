"""The LSTM's step graph: embedding → LSTM layers → (projection) → output layer."""

from __future__ import annotations

import numpy as np

from edgetext.models import ModelConfig
from edgetext_export.builder import FLOAT, GraphBuilder
from edgetext_export.layers import Layers, LSTMWeights
from edgetext_export.quantize import FloatArray
from edgetext_runtime.bundle import StateTensor

LOGITS = "logits"
Weights = dict[str, FloatArray]


def lstm_state(config: ModelConfig) -> tuple[StateTensor, ...]:
    """State of an LSTM: h and c of every layer, [B,H] each."""
    return tuple(
        StateTensor(f"past.{part}.{layer}", f"present.{part}.{layer}", ("batch", config.hidden))
        for layer in range(config.layers)
        for part in "hc"
    )


def lstm_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as in the checkpoint (a tied output layer has none of its own)."""
    V, E, H = config.vocab_size, config.embedding, config.hidden
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, E)}
    for layer in range(config.layers):
        shapes |= {
            f"lstm.weight_ih_l{layer}": (4 * H, E if layer == 0 else H),
            f"lstm.weight_hh_l{layer}": (4 * H, H),
            f"lstm.bias_ih_l{layer}": (4 * H,),
            f"lstm.bias_hh_l{layer}": (4 * H,),
        }
    if H != E:
        shapes |= {"projection.weight": (E, H), "projection.bias": (E,)}
    if not config.tied:
        shapes["head.weight"] = (V, E)
    return shapes | {"head.bias": (V,)}


def add_lstm(g: GraphBuilder, layers: Layers, config: ModelConfig, weights: Weights) -> str:
    """Write the network; returns `logits` [B,n,V]. Activations are time-major [T,B,·] up to the head."""
    ids = g.node("Transpose", ["tokens"], perm=[1, 0])  # [T,B]: ids are cheaper to turn than activations
    layers.table("embedding.weight", weights["embedding.weight"], tied=config.tied)
    x = layers.gather("embedding.weight", ids)  # [T,B,E]
    for layer in range(config.layers):
        h, c = (g.node("Unsqueeze", [f"past.{part}.{layer}", g.ints(0)]) for part in "hc")  # [1,B,H]
        y, h, c = layers.lstm(x, f"lstm.{layer}", _onnx_gates(weights, layer), h, c)  # y [T,1,B,H]
        for part, value in (("h", h), ("c", c)):
            g.node("Squeeze", [value, g.ints(0)], f"present.{part}.{layer}")
        if layer + 1 < config.layers:
            x = g.node("Squeeze", [y, g.ints(1)])  # [T,B,H]
    wanted = g.node("Squeeze", [g.node("Gather", [y, "positions"], axis=0), g.ints(1)])  # [n,B,H]
    x = g.node("Transpose", [wanted], perm=[1, 0, 2])  # [B,n,H]
    if config.hidden != config.embedding:
        x = layers.linear(x, "projection.weight", weights["projection.weight"], weights["projection.bias"])
    if config.tied:
        layers.tied(x, "embedding.weight", weights["head.bias"], LOGITS)
    else:
        layers.linear(x, "head.weight", weights["head.weight"], weights["head.bias"], LOGITS)
    return g.output(LOGITS, FLOAT, ["batch", "n", config.vocab_size])


def _onnx_gates(weights: Weights, layer: int) -> LSTMWeights:
    """Reorder the gates of one layer from torch's (input, forget, cell, output) to ONNX's (i, o, f, c)."""

    def reorder(name: str) -> FloatArray:
        i, f, c, o = np.split(weights[f"lstm.{name}_l{layer}"], 4)
        return np.concatenate([i, o, f, c])

    bias = np.concatenate([reorder("bias_ih"), reorder("bias_hh")])
    return LSTMWeights(reorder("weight_ih"), reorder("weight_hh"), bias)
