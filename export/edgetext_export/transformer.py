"""The Transformer's step graph, on onnxruntime's fused attention with a key/value cache written in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgetext_export.builder import FLOAT, INT32, MICROSOFT, GraphBuilder
from edgetext_export.decoder import Decoder
from edgetext_export.layers import Layers
from edgetext_export.quantize import FloatArray
from edgetext_export.recurrent import LOGITS, Weights, add_condition
from edgetext_runtime.bundle import StateTensor

PAST_LENGTH = "past_length"
HEAD_MULTIPLE = 16
"""GroupQueryAttention takes head sizes that are a multiple of this; others are padded with zeros."""


def transformer_state(shape: Decoder, head: int) -> tuple[StateTensor, ...]:
    """State of a Transformer: keys and values of every layer, [B, kv_heads, context, `head`] each."""
    axes = ("batch", shape.kv_heads, "context", head)
    return tuple(
        StateTensor(f"past.{part}.{layer}", f"present.{part}.{layer}", axes, kind="kv_cache")
        for layer in range(shape.layers)
        for part in ("key", "value")
    )


def add_transformer(net: Network) -> str:
    """Write the network; returns `logits` [B,n,V].

    Every normalisation but the first takes the residual sum with it (Skip…LayerNormalization).
    """
    g, layers, shape, weights = net.g, net.layers, net.shape, net.weights
    residual = net.embed()  # [B,T,H]
    norms = net.block_norms()
    x = net.norm(residual, norms[0])
    for layer, following in enumerate(norms[1:]):
        block = net.bottleneck if shape.bottleneck else net.block
        change, residual = block(layer, x, residual)
        x, residual = net.add_and_norm(change, residual, following)
    x = g.node("Gather", [x, "positions"], axis=1)  # [B,n,H]
    bias = weights.get("head.bias")
    if shape.tied:
        layers.tied(x, "embedding.weight", bias, LOGITS)
    else:
        layers.linear(x, "head.weight", weights["head.weight"], bias, LOGITS)
    return g.output(LOGITS, FLOAT, ["batch", "n", shape.vocab_size])


class Network:
    """The parts of a Transformer, written into one graph.

    `edgetext_export.portable` replaces those whose operators are onnxruntime's own.
    """

    def __init__(self, g: GraphBuilder, layers: Layers, shape: Decoder, weights: Weights) -> None:
        self.g, self.layers, self.shape, self.weights = g, layers, shape, weights
        self.time = g.node("Shape", ["tokens"], start=1, end=2)
        """T, [1]."""
        self.end = g.node("Add", [PAST_LENGTH, self.time])
        """Tokens seen with those of this call, [1]."""
        self.prepare()

    @staticmethod
    def head(shape: Decoder) -> int:
        """Width of an attention head in the graph: D rounded up to what the kernel takes."""
        return -(-shape.head_dim // HEAD_MULTIPLE) * HEAD_MULTIPLE

    def embed(self) -> str:
        """Rows of the table, plus those of the positions where they are learned: [B,T,H]."""
        g, shape = self.g, self.shape
        self.layers.table("embedding.weight", self.weights["embedding.weight"], tied=shape.tied)
        ids = g.node("Max", ["tokens", g.scalar(1, np.int64)]) if shape.start_row else "tokens"
        x = self.layers.gather("embedding.weight", ids)
        x = add_condition(g, x, shape.labels, self.weights, major="batch")
        if shape.frequencies:
            return x
        table = g.constant("positions.weight", self.weights["positions.weight"])
        return g.node("Add", [x, g.node("Gather", [table, self.places()], axis=0)])

    def places(self) -> str:
        """Positions of this call's tokens, [T]."""
        begin, end = (self.g.node("Squeeze", [length]) for length in (PAST_LENGTH, self.end))
        return self.g.node("Range", [begin, end, self.g.scalar(1, np.int64)])

    def block_norms(self) -> list[str]:
        """Names of the norms of the residual stream: one before every block, one before the head."""
        first = "enter_norm" if self.shape.bottleneck else "attention_norm"
        return [*(f"blocks.{layer}.{first}" for layer in range(self.shape.layers)), "norm"]

    def block(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        """Attention and feed-forward; returns what is to be added, and the residual it is to be added to."""
        mixed = self._attention(layer, x)
        x, residual = self.add_and_norm(mixed, residual, f"blocks.{layer}.ffn_norm")
        return self._feed_forward(layer, x), residual

    def bottleneck(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        """A block at width b, with a residual stream of its own, between two products: [B,T,H] → [B,T,H]."""
        name = f"blocks.{layer}"
        inner = self._linear(x, f"{name}.enter")  # [B,T,b]
        normed = self.norm(inner, f"{name}.attention_norm")
        change, inner = self.block(layer, normed, inner)
        return self._linear(self.g.node("Add", [inner, change]), f"{name}.leave"), residual

    def norm(self, x: str, name: str) -> str:
        """Return the norm of x."""
        inputs, eps = [x, *self.norm_weights(name)], self.shape.norm_eps
        if self.shape.norm == "layer":
            return self.g.node("LayerNormalization", inputs, axis=-1, epsilon=eps)
        return self.g.node("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=eps, stash_type=1)

    def add_and_norm(self, x: str, residual: str, name: str) -> tuple[str, str]:
        """Return the norm of x + residual, and x + residual, in one operator."""
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        inputs = [x, residual, *self.norm_weights(name)]
        kind = "" if self.shape.norm == "layer" else "Simplified"
        normed, _, _, total = self.g.nodes(
            f"Skip{kind}LayerNormalization", inputs, outputs, MICROSOFT, epsilon=self.shape.norm_eps
        )
        return normed, total

    def norm_weights(self, name: str) -> list[str]:
        """The weight of a norm, and the bias that LayerNorm has."""
        parts = ("weight", "bias") if self.shape.norm == "layer" else ("weight",)
        return [self.g.constant(f"{name}.{part}", self.weights[f"{name}.{part}"]) for part in parts]

    def prepare(self) -> None:
        """Index of the last token [B] and total [1], as GroupQueryAttention has them."""
        g = self.g
        batch = g.node("Shape", ["tokens"], start=0, end=1)
        self._total = g.node("Cast", [self.end], to=INT32)
        self._seen = g.node("Expand", [g.node("Sub", [self._total, g.scalar(1, np.int32)]), batch])

    def attend(self, layer: int, qkv: str) -> str:
        """Rotary attention of packed queries, keys and values over the cache: [B,T,heads*head]."""
        g, shape, name = self.g, self.shape, f"blocks.{layer}.attention"
        past = [f"past.key.{layer}", f"past.value.{layer}"]
        outputs = [f"{name}.mixed", f"present.key.{layer}", f"present.value.{layer}"]
        attributes: dict[str, Any] = {
            "num_heads": shape.heads,
            "kv_num_heads": shape.kv_heads,
            "do_rotary": int(bool(shape.frequencies)),
            "rotary_interleaved": 0,
            "scale": shape.head_dim**-0.5,
        }
        inputs = [qkv, "", "", *past, self._seen, self._total]
        if shape.frequencies:
            inputs += self.rotary_tables()
        return g.nodes("GroupQueryAttention", inputs, outputs, MICROSOFT, **attributes)[0]

    def rotary_tables(self) -> list[str]:
        """Cosines and sines [context, head/2] of the rotary angles; what pads a head does not turn."""
        shape = self.shape
        frequency = np.zeros(self.head(shape) // 2)
        frequency[: shape.head_dim // 2] = shape.frequencies
        angle = np.arange(shape.context, dtype=np.float64)[:, None] * frequency[None, :]
        tables = {"rotary.cos": np.cos(angle), "rotary.sin": np.sin(angle)}
        return [
            self.g.constant(name, (table * shape.rotary_scale).astype(np.float32))
            for name, table in tables.items()
        ]

    def activate(self, x: str, name: str) -> str:
        """SwiGLU of gate and up [B,T,2F] (QuickGelu with alpha 1 is SiLU), or another function: [B,T,F]."""
        g = self.g
        match self.shape.activation:
            case "swiglu":
                gate, up = g.nodes("Split", [x], [f"{name}.gate", f"{name}.up"], axis=2, num_outputs=2)
                return g.node("Mul", [g.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0), up])
            case "gelu":
                return g.node("Gelu", [x], domain=MICROSOFT)
            case "gelu_tanh":
                return g.node("FastGelu", [x], domain=MICROSOFT)
            case "relu":
                return g.node("Relu", [x])

    def _attention(self, layer: int, x: str) -> str:
        """Packed projection, attention, output projection: [B,T,W] → [B,T,W]."""
        name = f"blocks.{layer}.attention"
        mixed = self.attend(layer, self._linear(x, f"{name}.qkv", self._pad_heads))
        output = self._pad_heads(self.weights[f"{name}.output.weight"].T).T
        bias = self.weights.get(f"{name}.output.bias")
        return self.layers.linear(mixed, f"{name}.output.weight", output, bias)

    def _feed_forward(self, layer: int, x: str) -> str:
        """Feed-forward of a block, gate and up as one product: [B,T,W] → [B,T,W]."""
        name = f"blocks.{layer}.ffn"
        inner = self._linear(x, f"{name}.{self.shape.up}")  # [B,T,2F] or [B,T,F]
        return self._linear(self.activate(inner, name), f"{name}.down")

    def _linear(
        self, x: str, name: str, change: Callable[[FloatArray], FloatArray] = lambda rows: rows
    ) -> str:
        """A product with a named matrix, whose rows (and bias) may be changed first."""
        weight, bias = change(self.weights[f"{name}.weight"]), self.weights.get(f"{name}.bias")
        bias = None if bias is None else change(bias[:, None])[:, 0]
        return self.layers.linear(x, f"{name}.weight", weight, bias)

    def _pad_heads(self, weight: FloatArray) -> FloatArray:
        """Pad rows that come in heads, [n*D, H] → [n*head, H], zeros after each half (of a rotary pair).

        Zeros add nothing to a product of queries and keys, and the zeros of the values meet zeros in the
        output projection, so the result is the same.
        """
        D, H = self.shape.head_dim, weight.shape[1]
        halves = weight.reshape(-1, D // 2, H)  # [2n, D/2, H]
        return np.pad(halves, ((0, 0), (0, (self.head(self.shape) - D) // 2), (0, 0))).reshape(-1, H)
