"""What differs between precisions: how a table, a linear layer and an LSTM layer become nodes.

`FloatLayers` writes standard ONNX operators, `Int8Layers` onnxruntime's quantised ones.
The architectures are written once, over this interface.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from edgetext_export.builder import MICROSOFT, GraphBuilder
from edgetext_export.quantize import (
    LSTM_LEVELS,
    BlockQuantised,
    FloatArray,
    quantise_blocks,
    quantise_columns,
)

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


class Layers(Protocol):
    """Writes the layers of one precision into a graph."""

    precision: str

    def table(self, name: str, weight: FloatArray) -> None:
        """Store an embedding table [V,E] under `name`."""

    def gather(self, name: str, ids: str) -> str:
        """Rows of a stored table: ids [*] → [*, E]."""

    def linear(
        self, x: str, name: str, weight: FloatArray, bias: FloatArray | None = None, output: str = ""
    ) -> str:
        """X [*,K] times weight [N,K] transposed, plus bias [N]."""

    def tied(self, x: str, name: str, bias: FloatArray | None = None, output: str = "") -> str:
        """X [*,E] times a stored table [V,E] transposed, plus bias [V]."""

    def lstm(self, x: str, name: str, weights: LSTMWeights, h: str, c: str) -> tuple[str, str, str]:
        """One LSTM layer over x [T,B,in] from h, c [1,B,H]; returns y [T,1,B,H] and the new h, c [1,B,H]."""

    def recipe(self) -> dict[str, Any]:
        """What was done, for the manifest."""


class FloatLayers:
    """float32, standard operators."""

    precision = "fp32"

    def __init__(self, g: GraphBuilder) -> None:
        self._g = g

    def table(self, name: str, weight: FloatArray) -> None:
        """See `Layers.table`."""
        self._g.constant(name, weight)

    def gather(self, name: str, ids: str) -> str:
        """See `Layers.gather`."""
        return self._g.node("Gather", [name, ids], axis=0)

    def linear(
        self, x: str, name: str, weight: FloatArray, bias: FloatArray | None = None, output: str = ""
    ) -> str:
        """See `Layers.linear`."""
        return self._product(x, self._g.constant(name, weight.T), name, bias, output)

    def tied(self, x: str, name: str, bias: FloatArray | None = None, output: str = "") -> str:
        """See `Layers.tied`. The Transpose of a constant is folded when the session loads."""
        return self._product(x, self._g.node("Transpose", [name], perm=[1, 0]), name, bias, output)

    def lstm(self, x: str, name: str, weights: LSTMWeights, h: str, c: str) -> tuple[str, str, str]:
        """See `Layers.lstm`."""
        g = self._g
        w = g.constant(f"{name}.input", weights.input[None])
        r = g.constant(f"{name}.recurrent", weights.recurrent[None])
        b = g.constant(f"{name}.bias", weights.bias[None])
        outputs = [f"{name}.y", f"{name}.h", f"{name}.c"]
        hidden = weights.recurrent.shape[1]
        y, new_h, new_c = g.nodes("LSTM", [x, w, r, b, "", h, c], outputs, hidden_size=hidden)
        return y, new_h, new_c

    def recipe(self) -> dict[str, Any]:
        """See `Layers.recipe`."""
        return {"recipe": "none"}

    def _product(self, x: str, w: str, name: str, bias: FloatArray | None, output: str) -> str:
        g = self._g
        if bias is None:
            return g.node("MatMul", [x, w], output)
        return g.node("Add", [g.node("MatMul", [x, w]), g.constant(f"{name}.bias", bias)], output)


class Int8Layers:
    """8-bit weights and int8 products: MatMulNBits, GatherBlockQuantized, DynamicQuantizeLSTM."""

    precision = "int8"

    def __init__(self, g: GraphBuilder) -> None:
        self._g = g
        self._tables: dict[str, BlockQuantised] = {}
        self._record: dict[str, str] = {}

    def table(self, name: str, weight: FloatArray) -> None:
        """See `Layers.table`. Stored once, in the layout that the output layer needs if it is tied."""
        self._tables[name] = self._store(name, weight)

    def gather(self, name: str, ids: str) -> str:
        """See `Layers.gather`. The Reshape of a constant is folded when the session loads."""
        g, table = self._g, self._tables[name]
        rows = g.node("Reshape", [name, g.ints(len(table.values), table.padded)])
        attributes: dict[str, Any] = {
            "bits": 8,
            "block_size": table.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        x = g.node("GatherBlockQuantized", [rows, ids, f"{name}.scales"], domain=MICROSOFT, **attributes)
        if table.padded == table.width:
            return x
        return g.node("Slice", [x, g.ints(0), g.ints(table.width), g.ints(-1)])

    def linear(
        self, x: str, name: str, weight: FloatArray, bias: FloatArray | None = None, output: str = ""
    ) -> str:
        """See `Layers.linear`."""
        return self._product(x, name, self._store(name, weight), bias, output)

    def tied(self, x: str, name: str, bias: FloatArray | None = None, output: str = "") -> str:
        """See `Layers.tied`."""
        return self._product(x, name, self._tables[name], bias, output)

    def lstm(self, x: str, name: str, weights: LSTMWeights, h: str, c: str) -> tuple[str, str, str]:
        """See `Layers.lstm`. One scale per gate and unit; the zero points are all zero."""
        g = self._g
        operands: dict[str, list[str]] = {}
        for part, weight in (("input", weights.input), ("recurrent", weights.recurrent)):
            q = quantise_columns(weight.T, LSTM_LEVELS)  # [in, 4H]
            key = f"{name}.{part}"
            operands[part] = [
                g.constant(key, q.values[None]),
                g.constant(f"{key}.scales", q.scales[None]),
                g.constant(f"const.zeros.{len(q.scales)}", np.zeros((1, len(q.scales)), np.int8)),
            ]
        b = g.constant(f"{name}.bias", weights.bias[None])
        (w, *w_scale), (r, *r_scale) = operands["input"], operands["recurrent"]
        inputs = [x, w, r, b, "", h, c, "", *w_scale, *r_scale]
        outputs = [f"{name}.y", f"{name}.h", f"{name}.c"]
        hidden = weights.recurrent.shape[1]
        y, new_h, new_c = g.nodes("DynamicQuantizeLSTM", inputs, outputs, MICROSOFT, hidden_size=hidden)
        self._record[name] = f"DynamicQuantizeLSTM, ±{LSTM_LEVELS}, one scale per gate and unit"
        return y, new_h, new_c

    def recipe(self) -> dict[str, Any]:
        """See `Layers.recipe`."""
        return {"recipe": "int8-weights-dynamic-activations", "tensors": self._record}

    def _store(self, name: str, weight: FloatArray) -> BlockQuantised:
        q = quantise_blocks(weight)
        self._g.constant(name, q.values)
        self._g.constant(f"{name}.scales", q.scales)
        self._record[name] = f"MatMulNBits, 8 bits symmetric, block {q.block}, accuracy level {INT8_COMPUTE}"
        return q

    def _product(self, x: str, name: str, q: BlockQuantised, bias: FloatArray | None, output: str) -> str:
        g = self._g
        inputs = [x, name, f"{name}.scales"]
        if bias is not None:
            inputs += ["", "", g.constant(f"{name}.bias", bias)]
        attributes: dict[str, Any] = {"K": q.width, "N": len(q.values), "bits": 8, "block_size": q.block}
        return g.node("MatMulNBits", inputs, output, MICROSOFT, accuracy_level=INT8_COMPUTE, **attributes)
