"""The Transformer's step graph, on onnxruntime's fused attention with a key/value cache written in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgetext_export.builder import FLOAT, INT32, MICROSOFT, GraphBuilder
from edgetext_export.decoder import Decoder
from edgetext_export.layers import Layers
from edgetext_export.lstm import LOGITS, Weights
from edgetext_export.quantize import FloatArray
from edgetext_runtime.bundle import StateTensor

PAST_LENGTH = "past_length"
HEAD_MULTIPLE = 16
"""GroupQueryAttention takes head sizes that are a multiple of this; others are padded with zeros."""


def padded_head(shape: Decoder) -> int:
    """Width of an attention head in the graph: D rounded up to what the kernel takes."""
    return -(-shape.head_dim // HEAD_MULTIPLE) * HEAD_MULTIPLE


def transformer_state(shape: Decoder) -> tuple[StateTensor, ...]:
    """State of a Transformer: keys and values of every layer, [B, kv_heads, context, padded D] each."""
    axes = ("batch", shape.kv_heads, "context", padded_head(shape))
    return tuple(
        StateTensor(f"past.{part}.{layer}", f"present.{part}.{layer}", axes, kind="kv_cache")
        for layer in range(shape.layers)
        for part in ("key", "value")
    )


def add_transformer(g: GraphBuilder, layers: Layers, shape: Decoder, weights: Weights) -> str:
    """Write the network; returns `logits` [B,n,V].

    Every normalisation but the first takes the residual sum with it (Skip…LayerNormalization).
    """
    net = _Network(g, layers, shape, weights)
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


class _Network:
    """The parts of a Transformer, written into one graph."""

    def __init__(self, g: GraphBuilder, layers: Layers, shape: Decoder, weights: Weights) -> None:
        self._g, self._layers, self._shape, self._weights = g, layers, shape, weights
        self._seen, self._total, self._end = self._lengths()

    def embed(self) -> str:
        """Rows of the table, plus those of the positions where they are learned: [B,T,H]."""
        g, shape = self._g, self._shape
        self._layers.table("embedding.weight", self._weights["embedding.weight"], tied=shape.tied)
        ids = g.node("Max", ["tokens", g.scalar(1, np.int64)]) if shape.start_row else "tokens"
        x = self._layers.gather("embedding.weight", ids)
        if shape.frequencies:
            return x
        begin, end = (g.node("Squeeze", [length]) for length in (PAST_LENGTH, self._end))
        places = g.node("Range", [begin, end, g.scalar(1, np.int64)])  # [T]
        table = g.constant("positions.weight", self._weights["positions.weight"])
        return g.node("Add", [x, g.node("Gather", [table, places], axis=0)])

    def block_norms(self) -> list[str]:
        """Names of the norms of the residual stream: one before every block, one before the head."""
        first = "enter_norm" if self._shape.bottleneck else "attention_norm"
        return [*(f"blocks.{layer}.{first}" for layer in range(self._shape.layers)), "norm"]

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
        return self._linear(self._g.node("Add", [inner, change]), f"{name}.leave"), residual

    def norm(self, x: str, name: str) -> str:
        """Return the norm of x."""
        inputs, eps = [x, *self._norm_weights(name)], self._shape.norm_eps
        if self._shape.norm == "layer":
            return self._g.node("LayerNormalization", inputs, axis=-1, epsilon=eps)
        return self._g.node("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=eps, stash_type=1)

    def add_and_norm(self, x: str, residual: str, name: str) -> tuple[str, str]:
        """Return the norm of x + residual, and x + residual, in one operator."""
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        inputs = [x, residual, *self._norm_weights(name)]
        kind = "" if self._shape.norm == "layer" else "Simplified"
        normed, _, _, total = self._g.nodes(
            f"Skip{kind}LayerNormalization", inputs, outputs, MICROSOFT, epsilon=self._shape.norm_eps
        )
        return normed, total

    def _norm_weights(self, name: str) -> list[str]:
        parts = ("weight", "bias") if self._shape.norm == "layer" else ("weight",)
        return [self._g.constant(f"{name}.{part}", self._weights[f"{name}.{part}"]) for part in parts]

    def _lengths(self) -> tuple[str, str, str]:
        """Index of the last token [B] and total [1], as GroupQueryAttention has them; the total as int64."""
        g = self._g
        batch = g.node("Shape", ["tokens"], start=0, end=1)
        time = g.node("Shape", ["tokens"], start=1, end=2)
        end = g.node("Add", [PAST_LENGTH, time])  # [1]
        total = g.node("Cast", [end], to=INT32)
        last = g.node("Sub", [total, g.scalar(1, np.int32)])
        return g.node("Expand", [last, batch]), total, end

    def _attention(self, layer: int, x: str) -> str:
        """Packed projection, rotary attention over the cache, output projection: [B,T,W] → [B,T,W]."""
        g, shape, name = self._g, self._shape, f"blocks.{layer}.attention"
        past = [f"past.key.{layer}", f"past.value.{layer}"]
        outputs = [f"{name}.mixed", f"present.key.{layer}", f"present.value.{layer}"]
        attributes: dict[str, Any] = {
            "num_heads": shape.heads,
            "kv_num_heads": shape.kv_heads,
            "do_rotary": int(bool(shape.frequencies)),
            "rotary_interleaved": 0,
            "scale": shape.head_dim**-0.5,
        }
        qkv = self._linear(x, f"{name}.qkv", lambda rows: _pad_heads(shape, rows))
        inputs = [qkv, "", "", *past, self._seen, self._total]
        if shape.frequencies:
            cos, sin = _rotary_tables(shape)
            inputs += [g.constant("rotary.cos", cos), g.constant("rotary.sin", sin)]
        mixed = g.nodes("GroupQueryAttention", inputs, outputs, MICROSOFT, **attributes)[0]
        output = _pad_heads(shape, self._weights[f"{name}.output.weight"].T).T
        bias = self._weights.get(f"{name}.output.bias")
        return self._layers.linear(mixed, f"{name}.output.weight", output, bias)

    def _feed_forward(self, layer: int, x: str) -> str:
        """SwiGLU with gate and up as one product (QuickGelu with alpha 1 is SiLU), or a plain one."""
        g, shape, name = self._g, self._shape, f"blocks.{layer}.ffn"
        inner = self._linear(x, f"{name}.{shape.up}")  # [B,T,2F] or [B,T,F]
        match shape.activation:
            case "swiglu":
                gate, up = g.nodes("Split", [inner], [f"{name}.gate", f"{name}.up"], axis=2, num_outputs=2)
                active = g.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0)
                active = g.node("Mul", [active, up])
            case "gelu":
                active = g.node("Gelu", [inner], domain=MICROSOFT)
            case "gelu_tanh":
                active = g.node("FastGelu", [inner], domain=MICROSOFT)
            case "relu":
                active = g.node("Relu", [inner])
        return self._linear(active, f"{name}.down")

    def _linear(
        self, x: str, name: str, change: Callable[[FloatArray], FloatArray] = lambda rows: rows
    ) -> str:
        """A product with a named matrix, whose rows (and bias) may be changed first."""
        weight, bias = change(self._weights[f"{name}.weight"]), self._weights.get(f"{name}.bias")
        bias = None if bias is None else change(bias[:, None])[:, 0]
        return self._layers.linear(x, f"{name}.weight", weight, bias)


def _pad_heads(shape: Decoder, weight: FloatArray) -> FloatArray:
    """Pad rows that come in heads, [n*D, H] → [n*padded D, H], zeros after each half (of a rotary pair).

    Zeros add nothing to a product of queries and keys, and the zeros of the values meet zeros in the output
    projection, so the result is the same.
    """
    half, padding = shape.head_dim // 2, (padded_head(shape) - shape.head_dim) // 2
    H = weight.shape[1]
    halves = weight.reshape(-1, half, H)  # [2n, D/2, H]
    return np.pad(halves, ((0, 0), (0, padding), (0, 0))).reshape(-1, H)


def _rotary_tables(shape: Decoder) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines [context, padded D/2] of the rotary angles; padding does not turn."""
    frequency = np.zeros(padded_head(shape) // 2)
    frequency[: shape.head_dim // 2] = shape.frequencies
    angle = np.arange(shape.context, dtype=np.float64)[:, None] * frequency[None, :]
    scale = shape.rotary_scale
    return (np.cos(angle) * scale).astype(np.float32), (np.sin(angle) * scale).astype(np.float32)
