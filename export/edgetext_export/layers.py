"""What differs between recipes: how a table and a linear layer become nodes.

The architectures are written once, over `Layers`. Floating point gives standard ONNX operators, everything
quantised onnxruntime's; `edgetext_export.portable` has the same out of standard operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgetext_export.builder import FLOAT, MICROSOFT, GraphBuilder
from edgetext_export.quantize import (
    BlockQuantised,
    FloatArray,
    quantise_blocks,
    quantise_columns,
)
from edgetext_export.recipes import HALF, Recipe, Scheme

INT8_COMPUTE = 4
"""MatMulNBits accuracy_level: activations are quantised to int8 per block, products are int8."""


@dataclass
class Layers:
    """Writes layers into a graph, each in the scheme that a recipe gives it."""

    g: GraphBuilder
    recipe: Recipe
    moments: Mapping[str, FloatArray] = field(default_factory=dict)
    """Of what matrices read, by their names (`edgetext_export.moments`): they are rounded by it."""
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

    def floating(self, name: str, weight: FloatArray) -> str:
        """A matrix of the network as a float32 value, however it is stored."""
        self._store(name, weight, self.recipe.matrices)
        return self._float32(name, self.recipe.matrices)

    def manifest(self) -> dict[str, Any]:
        """What was done, for the manifest."""
        standard = {"operators": "ai.onnx"} if self.recipe.portable else {}
        if not self.recipe.quantised:
            return {"recipe": "none" if self.recipe.precision == "fp32" else self.recipe.name, **standard}
        choice = {"chosen": dict(self.recipe.record)} if self.recipe.record else {}
        return {"recipe": self.recipe.name, **standard, **choice, "tensors": self.record}

    def _store(self, name: str, weight: FloatArray, scheme: Scheme) -> BlockQuantised | None:
        """Store a matrix in blocks, or as floating point (None)."""
        if scheme.storage != "blocks":
            self.g.constant(name, weight.astype(np.float16) if scheme == HALF else weight)
            return None
        q = quantise_blocks(weight, scheme.block or None, scheme.bits, self.moments.get(name))
        self.g.constant(name, q.values)
        self.g.constant(f"{name}.scales", q.scales)
        kind = f"MatMulNBits, {q.bits} bits symmetric, block {q.block}"
        self.record[name] = f"{kind}, accuracy level {INT8_COMPUTE}{self.rounded(name)}"
        return q

    def rounded(self, name: str) -> str:
        """How a matrix was rounded, for the record: nothing of the nearest levels."""
        return ", GPTQ" if name in self.moments else ""

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
        q = quantise_columns(weight.T, self.recipe.levels, self.moments.get(name))  # [K,N]
        inputs = [x, g.constant(name, q.values), g.constant(f"{name}.scales", q.scales)]
        inputs.append(g.constant(f"const.zeros.{len(q.scales)}.1", np.zeros(len(q.scales), np.int8)))
        if bias is not None:
            inputs.append(g.constant(f"{name}.bias", bias))
        kind = f"DynamicQuantizeMatMul, ±{self.recipe.levels}, one scale per output"
        self.record[name] = f"{kind}{self.rounded(name)}"
        return g.node("DynamicQuantizeMatMul", inputs, output, MICROSOFT)

    def _float_product(self, x: str, w: str, name: str, bias: FloatArray | None, output: str) -> str:
        g = self.g
        if bias is None:
            return g.node("MatMul", [x, w], output)
        return g.node("Add", [g.node("MatMul", [x, w]), g.constant(f"{name}.bias", bias)], output)
