"""The shape of a decoder-only Transformer as a graph needs it: edgetext's own, Llama's and GPT-2's families.

`edgetext.models.ModelConfig` says what edgetext trains; a `Decoder` also says what only models from
elsewhere have: biases, LayerNorm, learned positions, scaled rotary frequencies, a token read by another row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from edgetext.models import ModelConfig

Activation = Literal["swiglu", "gelu", "gelu_tanh", "relu"]
Matrix = Literal["qkv", "output", "up", "down"]


@dataclass(frozen=True)
class Decoder:
    """Everything that fixes the graph of a decoder-only Transformer and the shapes of its weights."""

    vocab_size: int
    """V, number of token ids."""
    hidden: int
    """H, width of the residual stream."""
    layers: int
    """L, number of blocks."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key/value heads, a divisor of `heads`."""
    head_dim: int
    """D, width of a head, even."""
    ffn: int
    """F, inner width of the feed-forward."""
    context: int
    """Most tokens the cache holds."""
    tied: bool
    """Whether the output layer shares the embedding matrix."""
    norm_eps: float
    """Epsilon of the norms."""
    bottleneck: int = 0
    """b, inner width of every block between H → b and b → H; 0: blocks work at H."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with a bias."""
    activation: Activation = "swiglu"
    """SwiGLU with gate and up as one product, or a plain feed-forward with this function."""
    frequencies: tuple[float, ...] = ()
    """Inverse rotary frequencies [D/2]; none: positions are learned, `positions.weight` [context, H]."""
    rotary_scale: float = 1.0
    """What cosines and sines are multiplied with (YaRN's attention scaling)."""
    biases: tuple[Matrix, ...] = ()
    """Which matrices of a block have a bias."""
    head_bias: bool = False
    """Whether the output layer has a bias."""
    start_row: int = 0
    """1 if id 0, when it is read, is row 1 of the embedding: a text begins with another token than it ends
    with, and the matrix is shared with the output layer."""

    labels: tuple[str, ...] = ()
    """Names of the labels that it is conditioned on."""

    kind = "transformer"

    @classmethod
    def of(cls, config: ModelConfig) -> Decoder:
        """Return the shape of one of edgetext's own Transformers."""
        D = config.head_dim
        frequencies = config.rope_theta ** (-np.arange(0, D, 2, dtype=np.float64) / D)
        return cls(
            vocab_size=config.vocab_size,
            hidden=config.hidden,
            layers=config.layers,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=D,
            ffn=config.ffn,
            context=config.context,
            labels=config.labels,
            tied=config.tied,
            norm_eps=config.norm_eps,
            bottleneck=config.bottleneck,
            frequencies=tuple(frequencies.tolist()),
        )

    @property
    def width(self) -> int:
        """Width at which the blocks work: b with a bottleneck, else H."""
        return self.bottleneck or self.hidden

    @property
    def up(self) -> str:
        """Name of the first matrix of a feed-forward."""
        return "gate_up" if self.activation == "swiglu" else "up"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights (a tied output layer has none of its own)."""
        V, H, W, F = self.vocab_size, self.hidden, self.width, self.ffn
        heads, K, D = self.heads, self.kv_heads, self.head_dim
        inner = 2 * F if self.activation == "swiglu" else F
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, H), **self._norm("norm", H)}
        if not self.frequencies:
            shapes["positions.weight"] = (self.context, H)
        matrices: dict[Matrix, tuple[str, int, int]] = {
            "qkv": ("attention.qkv", (heads + 2 * K) * D, W),
            "output": ("attention.output", W, heads * D),
            "up": (f"ffn.{self.up}", inner, W),
            "down": ("ffn.down", W, F),
        }
        for layer in range(self.layers):
            block = f"blocks.{layer}"
            shapes |= self._norm(f"{block}.attention_norm", W) | self._norm(f"{block}.ffn_norm", W)
            for matrix, (name, rows, columns) in matrices.items():
                shapes[f"{block}.{name}.weight"] = (rows, columns)
                if matrix in self.biases:
                    shapes[f"{block}.{name}.bias"] = (rows,)
            if self.bottleneck:
                shapes |= self._norm(f"{block}.enter_norm", H)
                shapes |= {f"{block}.enter.weight": (W, H), f"{block}.leave.weight": (H, W)}
        if not self.tied:
            shapes["head.weight"] = (V, H)
        if self.labels:
            shapes["condition.weight"] = (H, len(self.labels))
        return shapes | ({"head.bias": (V,)} if self.head_bias else {})

    def parameters(self) -> int:
        """Number of parameters of the weights."""
        return sum(prod(shape) for shape in self.shapes().values())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, those left at their defaults left out."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        defaults = {name: field.default for name, field in self.__dataclass_fields__.items()}
        return {"kind": self.kind} | {name: v for name, v in plain.items() if v not in (defaults[name], [])}

    def _norm(self, name: str, width: int) -> dict[str, tuple[int, ...]]:
        parts = ("weight", "bias") if self.norm == "layer" else ("weight",)
        return {f"{name}.{part}": (width,) for part in parts}
