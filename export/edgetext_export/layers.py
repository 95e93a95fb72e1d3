"""What differs between recipes: how a table, a linear layer and an LSTM layer become nodes.

The architectures are written once, over `Layers`. Floating point gives standard ONNX operators, everything
quantised onnxruntime's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from edgetext_export.builder import FLOAT, INT8, MICROSOFT, GraphBuilder
from edgetext_export.quantize import (
    BlockQuantised,
    FloatArray,
    quantise_blocks,
    quantise_columns,
    unpack,
)
from edgetext_export.recipes import HALF, Recipe, Scheme

INT8_COMPUTE = 4
"""MatMulNBits accuracy_level: activations are quantised to int8 per block, products are int8."""


class LSTMWeights(NamedTuple):
    """One LSTM layer in ONNX gate order (input, output, forget, cell)."""

    input: FloatArray
    """[4H, in]."""
    recurrent: FloatArray
    """[4H, H]."""
    bias: FloatArray
    """[8H]: input bias, then recurrent bias."""


@dataclass
class Layers:
    """Writes layers into a graph, each in the scheme that a recipe gives it."""

    g: GraphBuilder
    recipe: Recipe
    record: dict[str, str] = field(default_factory=dict)
    """What was done, by tensor, for the manifest."""
    _tables: dict[str, BlockQuantised | None] = field(default_factory=dict)

    def table(self, name: str, weight: FloatArray, *, tied: bool) -> None:
        """Store an embedding table [V,E] under `name`, in the output layer's layout if that is `tied`."""
        scheme = self.recipe.embedding
        if tied:
            scheme = self.recipe.chosen.get(name, scheme)
        self._tables[name] = self._store(name, weight, scheme)

    def gather(self, name: str, ids: str) -> str:
        """Rows of a stored table: ids [*] → [*, E]. The Reshape of a constant is folded at load."""
        g, table = self.g, self._tables[name]
        if table is None:
            rows = g.node("Gather", [name, ids], axis=0)
            return g.node("Cast", [rows], to=FLOAT) if self.recipe.embedding == HALF else rows
        shape = g.ints(len(table.values), table.padded * table.bits // 8)
        attributes: dict[str, Any] = {"bits": table.bits, "block_size": table.block}
        x = g.node(
            "GatherBlockQuantized",
            [g.node("Reshape", [name, shape]), ids, f"{name}.scales"],
            domain=MICROSOFT,
            gather_axis=0,
            quantize_axis=1,
            **attributes,
        )
        if table.padded == table.width:
            return x
        return g.node("Slice", [x, g.ints(0), g.ints(table.width), g.ints(-1)])

    def linear(
        self, x: str, name: str, weight: FloatArray, bias: FloatArray | None = None, output: str = ""
    ) -> str:
        """X [*,K] times weight [N,K] transposed, plus bias [N]."""
        scheme = self.recipe.scheme(name)
        if scheme.storage == "columns":
            return self._columns(x, name, weight, bias, output)
        if scheme.storage != "blocks":
            self._store(name, weight.T, scheme)
            return self._float_product(x, self._float32(name, scheme), name, bias, output)
        stored = self._store(name, weight, scheme)
        return self._blocks(x, name, stored, bias, output) if stored else ""

    def tied(self, x: str, name: str, bias: FloatArray | None = None, output: str = "") -> str:
        """X [*,E] times a stored table [V,E] transposed, plus bias [V]. A float table is turned at load."""
        table = self._tables[name]
        if table is not None:
            return self._blocks(x, name, table, bias, output)
        w = self.g.node("Transpose", [self._float32(name, self.recipe.embedding)], perm=[1, 0])
        return self._float_product(x, w, name, bias, output)

    def lstm(self, x: str, name: str, weights: LSTMWeights, h: str, c: str) -> tuple[str, str, str]:
        """One LSTM layer over x [T,B,in] from h, c [1,B,H]; returns y [T,1,B,H] and the new h, c [1,B,H].

        Quantised: one scale per gate and unit; the zero points are all zero.
        """
        g = self.g
        parts = {"input": weights.input, "recurrent": weights.recurrent}
        b = g.constant(f"{name}.bias", weights.bias[None])
        outputs = [f"{name}.y", f"{name}.h", f"{name}.c"]
        hidden = weights.recurrent.shape[1]
        if not self.recipe.quantised:
            scheme = self.recipe.matrices
            for part, weight in parts.items():
                self._store(f"{name}.{part}", weight[None], scheme)
            w, r = (self._float32(f"{name}.{part}", scheme) for part in parts)
            y, new_h, new_c = g.nodes("LSTM", [x, w, r, b, "", h, c], outputs, hidden_size=hidden)
            return y, new_h, new_c
        (w, *w_scale), (r, *r_scale) = (self._gates(f"{name}.{part}", m) for part, m in parts.items())
        inputs = [x, w, r, b, "", h, c, "", *w_scale, *r_scale]
        y, new_h, new_c = g.nodes("DynamicQuantizeLSTM", inputs, outputs, MICROSOFT, hidden_size=hidden)
        stored = "" if self.recipe.recurrent_bits == 8 else f", stored in {self.recipe.recurrent_bits} bits"
        self.record[name] = f"DynamicQuantizeLSTM, ±{self.recipe.levels}, one scale per gate and unit{stored}"
        return y, new_h, new_c

    def manifest(self) -> dict[str, Any]:
        """What was done, for the manifest."""
        if not self.recipe.quantised:
            return {"recipe": "none" if self.recipe.precision == "fp32" else self.recipe.name}
        choice = {"chosen": dict(self.recipe.record)} if self.recipe.record else {}
        return {"recipe": self.recipe.name, **choice, "tensors": self.record}

    def _gates(self, name: str, weight: FloatArray) -> list[str]:
        """Recurrent weights [4H,K] as int8 [1,K,4H] with scales and zero points [1,4H]."""
        g = self.g
        zeros = [g.constant(f"const.zeros.{len(weight)}", np.zeros((1, len(weight)), np.int8))]
        if self.recipe.recurrent_bits == 8:
            q = quantise_columns(weight.T, self.recipe.levels)  # [K,4H]
            w = g.constant(name, q.values[None])
            return [w, g.constant(f"{name}.scales", q.scales[None]), *zeros]
        coarse = quantise_blocks(weight, bits=4)
        exact = coarse.dequantised()  # [4H,K], what the four bits say
        fine = quantise_columns(exact.T, self.recipe.levels)
        scales = g.constant(f"{name}.scales", fine.scales[None])
        return [self._widened(name, coarse, fine.scales), scales, *zeros]

    def _widened(self, name: str, q: BlockQuantised, scales: FloatArray) -> str:
        """4-bit blocks as the int8 columns [1,K,4H] that the kernel takes, computed once when it loads."""
        g = self.g
        N, blocks, _ = q.values.shape
        factor = q.scales / scales[:, None]  # levels of the kernel per level of four bits
        g.packed(name, unpack(q.values, 4).astype(np.int16) - q.zero_point)  # [N, blocks, block]
        wide = g.node("Cast", [name], to=FLOAT)
        wide = g.node("Mul", [wide, g.constant(f"{name}.factors", factor[..., None].astype(np.float32))])
        wide = g.node("Reshape", [g.node("Round", [wide]), g.ints(1, N, blocks * q.block)])
        if q.padded != q.width:
            wide = g.node("Slice", [wide, g.ints(0), g.ints(q.width), g.ints(-1)])
        return g.node("Transpose", [g.node("Cast", [wide], to=INT8)], perm=[0, 2, 1])

    def _store(self, name: str, weight: FloatArray, scheme: Scheme) -> BlockQuantised | None:
        """Store a matrix in blocks, or as floating point (None)."""
        if scheme.storage != "blocks":
            self.g.constant(name, weight.astype(np.float16) if scheme == HALF else weight)
            return None
        q = quantise_blocks(weight, scheme.block or None, scheme.bits)
        self.g.constant(name, q.values)
        self.g.constant(f"{name}.scales", q.scales)
        kind = f"MatMulNBits, {q.bits} bits symmetric, block {q.block}"
        self.record[name] = f"{kind}, accuracy level {INT8_COMPUTE}"
        return q

    def _float32(self, name: str, scheme: Scheme) -> str:
        return self.g.node("Cast", [name], to=FLOAT) if scheme == HALF else name

    def _blocks(self, x: str, name: str, q: BlockQuantised, bias: FloatArray | None, output: str) -> str:
        g = self.g
        inputs = [x, name, f"{name}.scales"]
        if bias is not None:
            inputs += ["", "", g.constant(f"{name}.bias", bias)]
        attributes: dict[str, Any] = {"K": q.width, "N": len(q.values), "bits": q.bits, "block_size": q.block}
        return g.node("MatMulNBits", inputs, output, MICROSOFT, accuracy_level=INT8_COMPUTE, **attributes)

    def _columns(self, x: str, name: str, weight: FloatArray, bias: FloatArray | None, output: str) -> str:
        g = self.g
        q = quantise_columns(weight.T, self.recipe.levels)  # [K,N]
        inputs = [x, g.constant(name, q.values), g.constant(f"{name}.scales", q.scales)]
        inputs.append(g.constant(f"const.zeros.{len(q.scales)}.1", np.zeros(len(q.scales), np.int8)))
        if bias is not None:
            inputs.append(g.constant(f"{name}.bias", bias))
        self.record[name] = f"DynamicQuantizeMatMul, ±{self.recipe.levels}, one scale per output"
        return g.node("DynamicQuantizeMatMul", inputs, output, MICROSOFT)

    def _float_product(self, x: str, w: str, name: str, bias: FloatArray | None, output: str) -> str:
        g = self.g
        if bias is None:
            return g.node("MatMul", [x, w], output)
        return g.node("Add", [g.node("MatMul", [x, w]), g.constant(f"{name}.bias", bias)], output)
