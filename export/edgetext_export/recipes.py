"""How the weights of a graph are stored and multiplied: schemes, and the recipes that give every tensor one.

A `Scheme` is what becomes of one matrix, a `Recipe` gives every matrix its scheme: by its name where a
measurement has chosen (`edgetext_export.tuning`), else by its role.

==============  ========================================================================================
recipe          weights
==============  ========================================================================================
int8            8 bits: blocks of a row (MatMulNBits), LSTM gates by column (DynamicQuantizeLSTM)
int8-dynamic    8 bits, one scale per output (DynamicQuantizeMatMul): ARM and CPUs with matrix units
int8-static     the same, activations by measured scales (`edgetext_export.static`)
int8-head-fp32  int8, with the output layer left in float32
int8-cells      int8, with LSTM layers as cells whose products are those of all other layers
int4            4 bits in blocks, embedding and output layer too; LSTM gates at 4 bits, multiplied as 8
int4-mixed      int4, with embedding and output layer at 8 bits
int4-cells      int4, with LSTM layers as cells, whose gates are multiplied as 4 bits too
fp16            stored as float16, computed in float32: half the file, the speed of fp32
fp32            as they are
==============  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgetext.errors import ExportError
from edgetext_export.quantize import LSTM_LEVELS

Precision = Literal["int8", "int4", "fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "int4", "fp16", "fp32")
Storage = Literal["blocks", "columns", "static", "float16", "float32"]
Target = Literal["generic", "x86-vnni", "x86-avx2", "arm64"]
TARGETS: tuple[Target, ...] = ("generic", "x86-vnni", "x86-avx2", "arm64")
FULL_LEVELS = 127
"""Largest level of a column-wise weight where the CPU adds products of bytes in 32 bits."""


@dataclass(frozen=True)
class Scheme:
    """What becomes of one matrix."""

    storage: Storage
    """``blocks``: a scale per block of a row; ``columns``: a scale per output; ``static``: one of the
    activations too, float32 until `edgetext_export.static.calibrate` has measured it; or floating point."""
    bits: int = 8
    """Of a weight in ``blocks``: 8 or 4."""
    block: int = 0
    """Weights per scale in ``blocks``; 0: as `edgetext.models.config.choose_block` says."""

    def __str__(self) -> str:
        if self.storage == "blocks":
            return f"{self.bits}-bit blocks" + (f" of {self.block}" if self.block else "")
        return {
            "columns": "8-bit columns",
            "static": "8-bit static",
            "float16": "float16",
            "float32": "float32",
        }[self.storage]


BLOCKS_8, BLOCKS_4 = Scheme("blocks"), Scheme("blocks", bits=4)
COLUMNS, STATIC = Scheme("columns"), Scheme("static")
HALF, FLOAT = Scheme("float16"), Scheme("float32")


@dataclass(frozen=True)
class Recipe:
    """A scheme for every matrix of a model."""

    name: str
    precision: Precision
    """What the manifest says."""
    matrices: Scheme
    """Of the linear layers inside the network."""
    head: Scheme
    """Of the output layer; a tied one has the embedding's."""
    embedding: Scheme
    """Of the embedding: ``blocks`` or floating point, ``columns`` (a scale per row) where `portable`."""
    recurrent_bits: int = 8
    """Of recurrent weights where they are quantised: 8, or 4 that are multiplied as 8."""
    levels: int = LSTM_LEVELS
    """Largest level of a weight with one scale per output: 63, or `FULL_LEVELS`."""
    chosen: Mapping[str, Scheme] = field(default_factory=dict)
    """Schemes of single tensors, chosen by measurement."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """How they were chosen, for the manifest."""
    portable: bool = False
    """Whether the graph has operators of the ONNX standard only."""
    decomposed: bool = False
    """Whether quantised LSTM layers are cells out of products and gates, though there is a fused operator."""

    @property
    def static(self) -> bool:
        """Whether the graph must be calibrated."""
        return STATIC in (self.matrices, self.head)

    @property
    def quantised(self) -> bool:
        """Whether recurrent layers are quantised."""
        return self.precision in ("int8", "int4")

    def cells(self, kind: str) -> bool:
        """Whether recurrent layers of a kind are cells: asked for, or no operator has them quantised."""
        return self.quantised and (kind == "gru" or self.portable or self.decomposed)

    def scheme(self, name: str) -> Scheme:
        """The scheme of a weight."""
        if name in self.chosen:
            return self.chosen[name]
        return self.head if name == "head.weight" else self.matrices

    def at(self, target: Target) -> Recipe:
        """The same recipe for a class of CPUs.

        x86 without VNNI (and whatever ``generic`` may meet) adds two products of bytes in 16 bits, so weights
        with one scale per output use half their levels there; elsewhere all of them.
        """
        if target not in TARGETS:
            raise ExportError(f"target {target!r} is unknown; use one of {', '.join(TARGETS)}")
        full = target in ("x86-vnni", "arm64")
        return replace(self, levels=FULL_LEVELS if full else LSTM_LEVELS)

    def as_portable(self) -> Recipe:
        """The same recipe out of standard operators: weights of 8 bits get one scale per output.

        Raises ExportError for 4 bits: the standard stores them, but multiplies them as float32 only; and for
        static scales, whose graphs are made by onnxruntime's quantiser.
        """
        if self.static:
            raise ExportError(f"{self.name} is made for onnxruntime; with --portable use --int8")
        if self.precision == "int4":
            raise ExportError(
                f"{self.name}: no standard operator multiplies 4-bit weights; with --portable use --int8, "
                f"--fp16 or --fp32"
            )
        schemes = (self.matrices, self.head, self.embedding)
        matrices, head, embedding = (COLUMNS if s == BLOCKS_8 else s for s in schemes)
        return replace(self, matrices=matrices, head=head, embedding=embedding, portable=True)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("int8", "int8", BLOCKS_8, BLOCKS_8, BLOCKS_8),
        Recipe("int8-dynamic", "int8", COLUMNS, COLUMNS, BLOCKS_8),
        Recipe("int8-static", "int8", STATIC, STATIC, BLOCKS_8),
        Recipe("int8-head-fp32", "int8", BLOCKS_8, FLOAT, FLOAT),
        Recipe("int8-cells", "int8", BLOCKS_8, BLOCKS_8, BLOCKS_8, decomposed=True),
        Recipe("int4", "int4", BLOCKS_4, BLOCKS_4, BLOCKS_4, recurrent_bits=4),
        Recipe("int4-mixed", "int4", BLOCKS_4, BLOCKS_8, BLOCKS_8, recurrent_bits=4),
        Recipe("int4-cells", "int4", BLOCKS_4, BLOCKS_4, BLOCKS_4, decomposed=True),
        Recipe("fp16", "fp16", HALF, HALF, HALF),
        Recipe("fp32", "fp32", FLOAT, FLOAT, FLOAT),
    )
}
"""The recipes by name; `Precision` names are among them."""


def find_recipe(name: str) -> Recipe:
    """Return a recipe. Raises ExportError if there is none of that name."""
    if name not in RECIPES:
        raise ExportError(f"recipe {name!r} is unknown; use one of {', '.join(RECIPES)}")
    return RECIPES[name]
