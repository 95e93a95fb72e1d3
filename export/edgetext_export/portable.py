"""The step graph out of standard ONNX operators, for runtimes other than onnxruntime.

What `layers` and `transformer` write with onnxruntime's own operators, written with those of the domain
ai.onnx (`builder.PORTABLE_OPSET`). Inputs, outputs and state are the same, so the same runner runs it: the
key/value cache is a buffer of fixed size that `ScatterElements` writes to, which onnxruntime does in place
where past and present are one.
"""

from __future__ import annotations

import numpy as np

from edgetext_export.builder import FLOAT
from edgetext_export.decoder import Decoder
from edgetext_export.layers import Layers
from edgetext_export.quantize import FloatArray, quantise_columns
from edgetext_export.recipes import COLUMNS
from edgetext_export.transformer import Network


class PortableLayers(Layers):
    """Layers whose 8-bit weights have a scale per output and go through MatMulInteger."""

    def table(self, name: str, weight: FloatArray, *, tied: bool) -> None:
        """Store an embedding table [V,E], as bytes with a scale per row [V,1] or as floating point."""
        if self.recipe.embedding != COLUMNS:
            super().table(name, weight, tied=tied)
            return
        q = quantise_columns(weight.T, self.recipe.levels, self.moments.get(name))  # [E,V]
        self.g.constant(name, np.ascontiguousarray(q.values.T))
        self.g.constant(f"{name}.scales", q.scales[:, None])
        self.record[name] = f"8 bits, ±{self.recipe.levels}, one scale per row{self.rounded(name)}"

    def gather(self, name: str, ids: str) -> str:
        """Rows of a stored table: ids [*] → [*, E]."""
        if self.recipe.embedding != COLUMNS:
            return super().gather(name, ids)
        rows, scales = (self.g.node("Gather", [part, ids], axis=0) for part in (name, f"{name}.scales"))
        return self.g.node("Mul", [self.g.node("Cast", [rows], to=FLOAT), scales])

    def tied(self, x: str, name: str, bias: FloatArray | None = None, output: str = "") -> str:
        """X [*,E] times a stored table [V,E] transposed, plus bias [V]. The table is turned at load."""
        if self.recipe.embedding != COLUMNS:
            return super().tied(x, name, bias, output)
        w = self.g.node("Transpose", [name], perm=[1, 0])
        scales = self.g.node("Reshape", [f"{name}.scales", self.g.ints(-1)])
        return self._integer_product(x, w, scales, name, bias, output)

    def _columns(self, x: str, name: str, weight: FloatArray, bias: FloatArray | None, output: str) -> str:
        q = quantise_columns(weight.T, self.recipe.levels, self.moments.get(name))  # [K,N]
        w, scales = self.g.constant(name, q.values), self.g.constant(f"{name}.scales", q.scales)
        kind = f"MatMulInteger, ±{self.recipe.levels}, one scale per output"
        self.record[name] = f"{kind}{self.rounded(name)}"
        return self._integer_product(x, w, scales, name, bias, output)

    def _integer_product(
        self, x: str, w: str, scales: str, name: str, bias: FloatArray | None, output: str
    ) -> str:
        """X [*,K] times int8 w [K,N] with scales [N], plus bias [N]; x gets one scale and zero point."""
        g = self.g
        parts = [f"{name}.{part}" for part in ("levels", "scale", "zero")]
        levels, scale, zero = g.nodes("DynamicQuantizeLinear", [x], parts)
        total = g.node("Cast", [g.node("MatMulInteger", [levels, w, zero])], to=FLOAT)
        factors = g.node("Mul", [scales, scale])
        if bias is None:
            return g.node("Mul", [total, factors], output)
        return g.node("Add", [g.node("Mul", [total, factors]), g.constant(f"{name}.bias", bias)], output)


class PortableNetwork(Network):
    """A Transformer whose norms, attention and activations are written out."""

    @staticmethod
    def head(shape: Decoder) -> int:
        """Width of an attention head in the graph: D."""
        return shape.head_dim

    def prepare(self) -> None:
        """What attention needs of the positions: rotary angles, where the cache is written, what is seen."""
        g, shape = self.g, self.shape
        self._places = super().places()  # [T]
        if shape.frequencies:
            self._rotary = [g.node("Gather", [table, self._places], axis=0) for table in self.rotary_tables()]
        batch = g.node("Shape", ["tokens"], start=0, end=1)
        size = g.node("Concat", [batch, g.ints(shape.kv_heads), self.time, g.ints(shape.head_dim)], axis=0)
        column = g.node("Unsqueeze", [self._places, g.ints(1)])  # [T,1]
        self._written = g.node("Expand", [column, size])  # [B,K,T,D]
        first, end = (g.scalar(0, np.int64), g.node("Squeeze", [self.end]))
        keys = g.node("Range", [first, end, g.scalar(1, np.int64)])  # [S]
        self._seen = g.node("LessOrEqual", [keys, column])  # [T,S]

    def places(self) -> str:
        """Positions of this call's tokens, [T]."""
        return self._places

    def norm(self, x: str, name: str) -> str:
        """Return the norm of x: x / sqrt(mean(x²) + eps) · weight, or LayerNormalization."""
        g, weights = self.g, self.norm_weights(name)
        if self.shape.norm == "layer":
            return super().norm(x, name)
        square = g.node("Pow", [x, g.scalar(2.0, np.float32)])
        mean = g.node("ReduceMean", [square, g.ints(-1)])
        root = g.node("Sqrt", [g.node("Add", [mean, g.scalar(self.shape.norm_eps, np.float32)])])
        return g.node("Mul", [g.node("Div", [x, root]), *weights])

    def add_and_norm(self, x: str, residual: str, name: str) -> tuple[str, str]:
        """Return the norm of x + residual, and x + residual."""
        total = self.g.node("Add", [x, residual], f"{name}.sum")
        return self.norm(total, name), total

    def attend(self, layer: int, qkv: str) -> str:
        """Rotary attention of packed queries, keys and values over the cache: [B,T,heads*D].

        A group of query heads stands below its key head as further rows, [B,K,G*T,D].
        """
        g, shape = self.g, self.shape
        heads, K, D = shape.heads, shape.kv_heads, shape.head_dim
        apart = g.node("Reshape", [qkv, g.ints(0, 0, heads + 2 * K, D)])
        apart = g.node("Transpose", [apart], perm=[0, 2, 1, 3])  # [B,heads+2K,T,D]
        turned, value = g.split(apart, 1, heads + K, K)
        query, key = g.split(self._rotate(turned) if shape.frequencies else turned, 1, heads, K)
        keys, values = (self._cached(*part) for part in ((f"key.{layer}", key), (f"value.{layer}", value)))
        rows = g.node("Reshape", [query, g.ints(0, K, -1, D)])  # [B,K,G*T,D]
        scores = g.node("MatMul", [rows, g.node("Transpose", [keys], perm=[0, 1, 3, 2])])  # [B,K,G*T,S]
        scores = g.node("Mul", [scores, g.scalar(D**-0.5, np.float32)])
        per_head = g.node("Concat", [g.ints(0, heads), self.time, self.end], axis=0)
        scores = g.node("Reshape", [scores, per_head])  # [B,heads,T,S]
        scores = g.node("Where", [self._seen, scores, g.scalar(-np.inf, np.float32)])
        p = g.node("Softmax", [scores], axis=-1)
        grouped = g.node("Concat", [g.ints(0, K, -1), self.end], axis=0)
        mixed = g.node("MatMul", [g.node("Reshape", [p, grouped]), values])  # [B,K,G*T,D]
        per_token = g.node("Concat", [g.ints(0, heads), self.time, g.ints(D)], axis=0)
        mixed = g.node("Transpose", [g.node("Reshape", [mixed, per_token])], perm=[0, 2, 1, 3])
        return g.node("Reshape", [mixed, g.ints(0, 0, heads * D)])

    def activate(self, x: str, name: str) -> str:
        """SwiGLU of gate and up [B,T,2F], or another function written out: [B,T,F]."""
        g = self.g

        def number(value: float) -> str:
            return g.scalar(value, np.float32)

        match self.shape.activation:
            case "swiglu":
                gate, up = g.split(x, 2, self.shape.ffn, self.shape.ffn)
                return g.node("Mul", [g.node("Mul", [gate, g.node("Sigmoid", [gate])]), up])
            case "gelu":
                curve = g.node("Erf", [g.node("Div", [x, number(2.0**0.5)])])
            case "gelu_tanh":
                cubic = g.node("Mul", [g.node("Pow", [x, number(3.0)]), number(0.044715)])
                inner = g.node("Mul", [g.node("Add", [x, cubic]), number((2.0 / np.pi) ** 0.5)])
                curve = g.node("Tanh", [inner])
            case "relu":
                return g.node("Relu", [x])
        half = g.node("Mul", [x, g.node("Add", [curve, number(1.0)])])
        return g.node("Mul", [half, number(0.5)])

    def _rotate(self, x: str) -> str:
        """Turn x [B,·,T,D] by the angles of its positions; the two halves of D form the pairs."""
        g, half = self.g, self.shape.head_dim // 2
        cos, sin = self._rotary
        first, second = g.split(x, 3, half, half)
        parts = [
            g.node("Sub", [g.node("Mul", [first, cos]), g.node("Mul", [second, sin])]),
            g.node("Add", [g.node("Mul", [second, cos]), g.node("Mul", [first, sin])]),
        ]
        return g.node("Concat", parts, axis=-1)

    def _cached(self, name: str, new: str) -> str:
        """Write new [B,K,T,D] into the cache `past.name`; returns what it holds so far, [B,K,S,D]."""
        g = self.g
        inputs = [f"past.{name}", self._written, new]
        whole = g.node("ScatterElements", inputs, f"present.{name}", axis=2)
        return g.node("Slice", [whole, g.ints(0), self.end, g.ints(2)])
