"""The step graph of LSTM and GRU: embedding → recurrent layers → (projection) → output layer."""

from __future__ import annotations

import numpy as np

from edgetext.models import ModelConfig
from edgetext_export.builder import FLOAT, GraphBuilder
from edgetext_export.cells import STATE, LayerWeights, add_layer
from edgetext_export.layers import Layers
from edgetext_export.quantize import FloatArray
from edgetext_runtime.bundle import StateTensor

LOGITS = "logits"
Weights = dict[str, FloatArray]
_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def condition_state(labels: tuple[str, ...]) -> tuple[StateTensor, ...]:
    """The condition of a generator with labels, [B,C]."""
    if not labels:
        return ()
    return (StateTensor("condition.label", "", ("batch", len(labels)), kind="condition", labels=labels),)


def add_condition(g: GraphBuilder, x: str, labels: tuple[str, ...], weights: Weights, *, major: str) -> str:
    """Add the condition's rows to embeddings x, ``time``-major [T,B,E] or ``batch``-major [B,T,E]."""
    if not labels:
        return x
    table = g.constant("condition.weight", np.ascontiguousarray(weights["condition.weight"].T))  # [C,E]
    added = g.node("MatMul", ["condition.label", table])  # [B,E]
    if major == "batch":
        added = g.node("Unsqueeze", [added, g.ints(1)])
    return g.node("Add", [x, added])


def recurrent_state(config: ModelConfig) -> tuple[StateTensor, ...]:
    """State of every layer, [B,H] each: h and c of an LSTM, h of a GRU."""
    return tuple(
        StateTensor(f"past.{part}.{layer}", f"present.{part}.{layer}", ("batch", config.hidden))
        for layer in range(config.layers)
        for part in STATE[config.kind]
    )


def recurrent_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as in the checkpoint (a tied output layer has none of its own)."""
    V, E, H, G = config.vocab_size, config.embedding, config.hidden, config.gates
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, E)}
    for layer in range(config.layers):
        sizes = ((G * H, E if layer == 0 else H), (G * H, H), (G * H,), (G * H,))
        shapes |= {f"{config.kind}.{part}_l{layer}": size for part, size in zip(_PARTS, sizes, strict=True)}
    if H != E:
        shapes |= {"projection.weight": (E, H), "projection.bias": (E,)}
    if not config.tied:
        shapes["head.weight"] = (V, E)
    if config.labels:
        shapes["condition.weight"] = (E, len(config.labels))
    return shapes | {"head.bias": (V,)}


def add_recurrent(g: GraphBuilder, layers: Layers, config: ModelConfig, weights: Weights) -> str:
    """Write the network; returns `logits` [B,n,V]. Activations are time-major [T,B,·] up to the head."""
    ids = g.node("Transpose", ["tokens"], perm=[1, 0])  # [T,B]: ids are cheaper to turn than activations
    layers.table("embedding.weight", weights["embedding.weight"], tied=config.tied)
    x = layers.gather("embedding.weight", ids)  # [T,B,E]
    x = add_condition(g, x, config.labels, weights, major="time")
    for layer in range(config.layers):
        own = LayerWeights(*(weights[f"{config.kind}.{part}_l{layer}"] for part in _PARTS))
        x = add_layer(layers, config.kind, layer, x, own)  # [T,B,H]
    wanted = g.node("Gather", [x, "positions"], axis=0)  # [n,B,H]
    x = g.node("Transpose", [wanted], perm=[1, 0, 2])  # [B,n,H]
    if config.hidden != config.embedding:
        x = layers.linear(x, "projection.weight", weights["projection.weight"], weights["projection.bias"])
    if config.tied:
        layers.tied(x, "embedding.weight", weights["head.bias"], LOGITS)
    else:
        layers.linear(x, "head.weight", weights["head.weight"], weights["head.bias"], LOGITS)
    return g.output(LOGITS, FLOAT, ["batch", "n", config.vocab_size])
