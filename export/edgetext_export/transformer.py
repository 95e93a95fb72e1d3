"""The Transformer's step graph, on onnxruntime's fused attention with a key/value cache written in place."""

from __future__ import annotations

import numpy as np

from edgetext.models import ModelConfig
from edgetext_export.builder import FLOAT, INT32, MICROSOFT, GraphBuilder
from edgetext_export.layers import Layers
from edgetext_export.lstm import LOGITS, Weights
from edgetext_export.quantize import FloatArray
from edgetext_runtime.bundle import StateTensor

PAST_LENGTH = "past_length"
HEAD_MULTIPLE = 16
"""GroupQueryAttention takes head sizes that are a multiple of this; others are padded with zeros."""


def padded_head(config: ModelConfig) -> int:
    """Width of an attention head in the graph: D rounded up to what the kernel takes."""
    return -(-config.head_dim // HEAD_MULTIPLE) * HEAD_MULTIPLE


def transformer_state(config: ModelConfig) -> tuple[StateTensor, ...]:
    """State of a Transformer: keys and values of every layer, [B, kv_heads, context, padded D] each."""
    shape = ("batch", config.kv_heads, "context", padded_head(config))
    return tuple(
        StateTensor(f"past.{part}.{layer}", f"present.{part}.{layer}", shape, kind="kv_cache")
        for layer in range(config.layers)
        for part in ("key", "value")
    )


def transformer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as in the checkpoint (a tied output layer has none of its own)."""
    V, H, W, F = config.vocab_size, config.hidden, config.width, config.ffn
    heads, K, D = config.heads, config.kv_heads, config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, H), "norm.weight": (H,)}
    for layer in range(config.layers):
        shapes |= {
            f"blocks.{layer}.attention_norm.weight": (W,),
            f"blocks.{layer}.attention.qkv.weight": ((heads + 2 * K) * D, W),
            f"blocks.{layer}.attention.output.weight": (W, heads * D),
            f"blocks.{layer}.ffn_norm.weight": (W,),
            f"blocks.{layer}.ffn.gate_up.weight": (2 * F, W),
            f"blocks.{layer}.ffn.down.weight": (W, F),
        }
        if config.bottleneck:
            shapes |= {
                f"blocks.{layer}.enter_norm.weight": (H,),
                f"blocks.{layer}.enter.weight": (W, H),
                f"blocks.{layer}.leave.weight": (H, W),
            }
    return shapes if config.tied else shapes | {"head.weight": (V, H)}


def add_transformer(g: GraphBuilder, layers: Layers, config: ModelConfig, weights: Weights) -> str:
    """Write the network; returns `logits` [B,n,V].

    Every normalisation but the first takes the residual sum with it (SkipSimplifiedLayerNormalization).
    """
    seen, total = _lengths(g)
    layers.table("embedding.weight", weights["embedding.weight"])
    residual = layers.gather("embedding.weight", "tokens")  # [B,T,H]
    norms = _block_norms(config)
    x = _norm(g, config, weights, residual, norms[0])
    for layer, following in enumerate(norms[1:]):
        if config.bottleneck:
            change = _bottleneck(g, layers, config, weights, layer, x, seen, total)
        else:
            change, residual = _block(g, layers, config, weights, layer, x, residual, seen, total)
        x, residual = _add_and_norm(g, config, weights, change, residual, following)
    x = g.node("Gather", [x, "positions"], axis=1)  # [B,n,H]
    if config.tied:
        layers.tied(x, "embedding.weight", output=LOGITS)
    else:
        layers.linear(x, "head.weight", weights["head.weight"], output=LOGITS)
    return g.output(LOGITS, FLOAT, ["batch", "n", config.vocab_size])


def _lengths(g: GraphBuilder) -> tuple[str, str]:
    """Lengths as GroupQueryAttention wants them: index of the last token [B], and the total [1]."""
    batch = g.node("Shape", ["tokens"], start=0, end=1)
    time = g.node("Shape", ["tokens"], start=1, end=2)
    total = g.node("Cast", [g.node("Add", [PAST_LENGTH, time])], to=INT32)  # [1]
    last = g.node("Sub", [total, g.scalar(1, np.int32)])
    return g.node("Expand", [last, batch]), total


def _block_norms(config: ModelConfig) -> list[str]:
    """Names of the norms of the residual stream: one before every block, one before the head."""
    first = "enter_norm" if config.bottleneck else "attention_norm"
    return [*(f"blocks.{layer}.{first}.weight" for layer in range(config.layers)), "norm.weight"]


def _block(
    g: GraphBuilder,
    layers: Layers,
    config: ModelConfig,
    weights: Weights,
    layer: int,
    x: str,
    residual: str,
    seen: str,
    total: str,
) -> tuple[str, str]:
    """Attention and feed-forward; returns what is to be added, and the residual it is to be added to."""
    mixed = _attention(g, layers, config, weights, layer, x, seen, total)
    x, residual = _add_and_norm(g, config, weights, mixed, residual, f"blocks.{layer}.ffn_norm.weight")
    return _feed_forward(g, layers, weights, layer, x), residual


def _bottleneck(
    g: GraphBuilder,
    layers: Layers,
    config: ModelConfig,
    weights: Weights,
    layer: int,
    x: str,
    seen: str,
    total: str,
) -> str:
    """A block at width b, with a residual stream of its own, between two products: [B,T,H] → [B,T,H]."""
    name = f"blocks.{layer}"
    inner = layers.linear(x, f"{name}.enter.weight", weights[f"{name}.enter.weight"])  # [B,T,b]
    normed = _norm(g, config, weights, inner, f"{name}.attention_norm.weight")
    change, inner = _block(g, layers, config, weights, layer, normed, inner, seen, total)
    inner = g.node("Add", [inner, change])
    return layers.linear(inner, f"{name}.leave.weight", weights[f"{name}.leave.weight"])


def _attention(
    g: GraphBuilder,
    layers: Layers,
    config: ModelConfig,
    weights: Weights,
    layer: int,
    x: str,
    seen: str,
    total: str,
) -> str:
    """Packed projection, rotary attention over the cache, output projection: [B,T,W] → [B,T,W]."""
    cos, sin = _rotary_tables(config)
    name = f"blocks.{layer}.attention"
    qkv = layers.linear(x, f"{name}.qkv.weight", _pad_heads(config, weights[f"{name}.qkv.weight"]))
    past = [f"past.key.{layer}", f"past.value.{layer}"]
    tables = [g.constant("rotary.cos", cos), g.constant("rotary.sin", sin)]
    outputs = [f"{name}.mixed", f"present.key.{layer}", f"present.value.{layer}"]
    attributes = {
        "num_heads": config.heads,
        "kv_num_heads": config.kv_heads,
        "do_rotary": 1,
        "rotary_interleaved": 0,
        "scale": config.head_dim**-0.5,
    }
    inputs = [qkv, "", "", *past, seen, total, *tables]
    mixed = g.nodes("GroupQueryAttention", inputs, outputs, MICROSOFT, **attributes)[0]
    output = _pad_heads(config, weights[f"{name}.output.weight"].T).T
    return layers.linear(mixed, f"{name}.output.weight", output)


def _feed_forward(g: GraphBuilder, layers: Layers, weights: Weights, layer: int, x: str) -> str:
    """SwiGLU with gate and up as one product; QuickGelu with alpha 1 is SiLU in one operator."""
    name = f"blocks.{layer}.ffn"
    both = layers.linear(x, f"{name}.gate_up.weight", weights[f"{name}.gate_up.weight"])  # [B,T,2F]
    gate, up = g.nodes("Split", [both], [f"{name}.gate", f"{name}.up"], axis=2, num_outputs=2)
    active = g.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0)
    return layers.linear(g.node("Mul", [active, up]), f"{name}.down.weight", weights[f"{name}.down.weight"])


def _norm(g: GraphBuilder, config: ModelConfig, weights: Weights, x: str, norm: str) -> str:
    """Return RMSNorm(x)."""
    inputs = [x, g.constant(norm, weights[norm])]
    return g.node("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=config.norm_eps, stash_type=1)


def _add_and_norm(
    g: GraphBuilder, config: ModelConfig, weights: Weights, x: str, residual: str, norm: str
) -> tuple[str, str]:
    """Return RMSNorm(x + residual) and x + residual, in one operator."""
    outputs = [f"{norm}.normed", "", "", f"{norm}.sum"]
    inputs = [x, residual, g.constant(norm, weights[norm])]
    normed, _, _, total = g.nodes(
        "SkipSimplifiedLayerNormalization", inputs, outputs, MICROSOFT, epsilon=config.norm_eps
    )
    return normed, total


def _pad_heads(config: ModelConfig, weight: FloatArray) -> FloatArray:
    """Pad rows that come in heads, [n*D, H] → [n*padded D, H], zeros after each half (of a rotary pair).

    Zeros add nothing to a product of queries and keys, and the zeros of the values meet zeros in the output
    projection, so the result is the same.
    """
    half, padding = config.head_dim // 2, (padded_head(config) - config.head_dim) // 2
    H = weight.shape[1]
    halves = weight.reshape(-1, half, H)  # [2n, D/2, H]
    return np.pad(halves, ((0, 0), (0, padding), (0, 0))).reshape(-1, H)


def _rotary_tables(config: ModelConfig) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines [context, padded D/2] of the rotary angles; padding does not turn."""
    D = config.head_dim
    frequency = np.zeros(padded_head(config) // 2)
    frequency[: D // 2] = config.rope_theta ** (-np.arange(0, D, 2, dtype=np.float64) / D)
    angle = np.arange(config.context, dtype=np.float64)[:, None] * frequency[None, :]
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
