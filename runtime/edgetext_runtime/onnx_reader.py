"""Reads model.onnx without onnx or onnxruntime: nodes, weights and signature, and nothing on trust.

ONNX files are protocol buffers; the field numbers here are those of onnx.proto, IR version 10. Only what the
step graphs of edgetext contain is understood. Lengths are checked before they are used and everything is
counted, so the memory taken is bounded by the size of the file: weights are views of its bytes.

Source: https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import math
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from .errors import BundleError
from .manifest import damaged
from .numpy_weights import refuse
from .sampling import AnyArray

Attribute = int | float | str | tuple[int, ...]

_ELEMENTS: Mapping[int, str] = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
"""Element types by their number in onnx.proto; all little endian in a file."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 100_000
"""Most protobuf fields and packed numbers in a model; edgetext writes about 500 for every layer. It bounds
the time and the memory that a hostile file can take."""
_LONGEST_NAME = 1024


class Node(NamedTuple):
    """One operator call: ``outputs = operator(inputs)``; an empty name is an operand that is not given."""

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def __str__(self) -> str:
        """The operator and its name, for error messages."""
        return f"{self.operator} {self.name!r}"


class Value(NamedTuple):
    """An input or output of the graph: what ``check_signature`` compares with the manifest."""

    name: str
    type: str
    """As onnxruntime writes it, such as ``tensor(float)``."""
    shape: list[int | str]


class Graph(NamedTuple):
    """A model as it was read.

    Attributes:
        nodes: in the order of the file, which is the order of execution.
        constants: the weights by name, read-only views of the model's bytes (perhaps not aligned).
        inputs: what the graph takes.
        outputs: what it gives.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, AnyArray]
    inputs: list[Value]
    outputs: list[Value]


def read_graph(model: bytes) -> Graph:
    """Read a serialised ``ModelProto``.

    Args:
        model: content of model.onnx.

    Raises:
        BundleError: if it is damaged, or holds something that edgetext does not write.
    """
    try:
        return _Reader(model).model()
    except (UnicodeDecodeError, OverflowError, ValueError) as error:  # names and shapes that are none
        raise _damaged(str(error)) from error


def _damaged(what: str) -> BundleError:
    return damaged(f"model.onnx: {what}")


class _Reader:
    """A walk over one file; counts what it has read."""

    def __init__(self, model: bytes) -> None:
        self._data = model
        self._fields = 0

    def model(self) -> Graph:
        graphs = [span for number, span in self._messages(0, len(self._data)) if number == 7]
        if len(graphs) != 1:
            raise _damaged("not an ONNX model with one graph")
        nodes: list[Node] = []
        constants: dict[str, AnyArray] = {}
        sides: dict[int, list[Value]] = {11: [], 12: []}
        for number, span in self._messages(*graphs[0]):
            if number == 1:
                nodes.append(self._node(*span))
            elif number == 5:
                name, array = self._tensor(*span)
                if name in constants:
                    raise _damaged(f"has two weights named {name!r}")
                constants[name] = array
            elif number in sides:
                sides[number].append(self._value(*span))
            elif number == 15:
                raise _damaged("has sparse weights, which edgetext does not write")
        return Graph(tuple(nodes), constants, sides[11], sides[12])

    def _node(self, start: int, end: int) -> Node:
        inputs: list[str] = []
        outputs: list[str] = []
        texts = {3: "", 4: "", 7: ""}
        attributes: dict[str, Attribute] = {}
        for number, span in self._messages(start, end):
            if number in (1, 2):
                (inputs if number == 1 else outputs).append(self._text(*span))
            elif number in texts:
                texts[number] = self._text(*span)
            elif number == 5:
                name, value = self._attribute(*span)
                attributes[name] = value
        return Node(texts[3], texts[4], texts[7], tuple(inputs), tuple(outputs), attributes)

    def _attribute(self, start: int, end: int) -> tuple[str, Attribute]:
        name, value, ints = "", None, []
        for number, wire, content in self._walk(start, end):
            if number == 1 and wire == _BYTES:
                name = self._text(*content)
            elif number == 2 and wire == _FIXED32:
                value = struct.unpack_from("<f", self._data, content[0])[0]
            elif number == 3 and wire == _VARINT:
                value = _signed(content[0])
            elif number == 4 and wire == _BYTES:
                value = self._text(*content)
            elif number == 8:
                ints += self._ints(wire, content)
            elif number not in (13, 20):  # documentation, and the type, which the field used tells as well
                raise refuse(f"attribute {name!r} is of an unknown kind")
        return name, tuple(ints) if value is None else value

    def _tensor(self, start: int, end: int) -> tuple[str, AnyArray]:
        name, element, dims = "", 0, []
        raw = (end, end)
        for number, wire, content in self._walk(start, end):
            if number == 1:
                dims += self._ints(wire, content)
            elif number == 2 and wire == _VARINT:
                element = content[0]
            elif number == 8 and wire == _BYTES:
                name = self._text(*content)
            elif number == 9 and wire == _BYTES:
                raw = content
            elif number in (13, 14):
                raise _damaged(f"keeps weight {name!r} in another file, which is not allowed")
            elif number != 12:  # documentation
                raise _damaged(f"weight {name!r} is stored in a way that edgetext does not write")
        if element not in _ELEMENTS:
            raise refuse(f"weight {name!r} has the unknown element type {element}")
        dtype = np.dtype(_ELEMENTS[element]).newbyteorder("<")
        count = math.prod(dims)
        if min(dims, default=0) < 0 or count * dtype.itemsize != raw[1] - raw[0]:
            raise _damaged(f"weight {name!r} has {raw[1] - raw[0]} bytes, its shape {dims} says other")
        if count == 0:
            return name, np.zeros(dims, dtype)
        array = np.frombuffer(self._data, dtype, count, raw[0]).reshape(dims)
        return name, array.astype(dtype.newbyteorder("="), copy=False)

    def _value(self, start: int, end: int) -> Value:
        """ValueInfoProto: name (1), type (2) → tensor_type (1) → elem_type (1), shape (2) → dim (1)*."""
        name, kind = "", "unknown"
        shape: list[int | str] = []
        for number, span in self._messages(start, end):
            if number == 1:
                name = self._text(*span)
            elif number == 2:
                for _, tensor in self._messages(*span, only=1):
                    for field, wire, content in self._walk(*tensor):
                        if field == 1 and wire == _VARINT:
                            kind = _ELEMENTS.get(content[0], kind)
                        elif field == 2 and wire == _BYTES:
                            shape += [self._axis(*dim) for _, dim in self._messages(*content, only=1)]
        return Value(name, f"tensor({'float' if kind == 'float32' else kind})", shape)

    def _axis(self, start: int, end: int) -> int | str:
        axis: int | str = ""
        for number, wire, content in self._walk(start, end):
            if number == 1 and wire == _VARINT:
                axis = _signed(content[0])
            elif number == 2 and wire == _BYTES:
                axis = self._text(*content)
        return axis

    def _text(self, start: int, end: int) -> str:
        if end - start > _LONGEST_NAME:
            raise _damaged(f"a name has {end - start:,} bytes, more than {_LONGEST_NAME}")
        return self._data[start:end].decode("utf-8")

    def _ints(self, wire: int, content: tuple[int, int]) -> list[int]:
        """Repeated int64: one number, or many packed."""
        if wire == _VARINT:
            return [_signed(content[0])]
        if wire != _BYTES:
            raise _damaged("a list of numbers is not one")
        numbers, at = [], content[0]
        while at < content[1]:
            self._count()
            number, at = self._varint(at, content[1])
            numbers.append(_signed(number))
        return numbers

    def _messages(self, start: int, end: int, only: int = 0) -> Iterator[tuple[int, tuple[int, int]]]:
        """The fields with a length in a message: number, and where its content starts and ends."""
        for number, wire, content in self._walk(start, end):
            if wire == _BYTES and only in (0, number):
                yield number, content

    def _walk(self, start: int, end: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
        """All fields of a message: number, wire type, and (start, end) of the content or (number, 0)."""
        at = start
        while at < end:
            self._count()
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield number, wire, (value, 0)
                continue
            if wire == _BYTES:
                size, at = self._varint(at, end)
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
            else:
                raise _damaged(f"not an ONNX model (wire type {wire} at byte {at:,})")
            if size > end - at:
                raise _damaged(f"truncated: {size:,} bytes announced at byte {at:,}, {end - at:,} are left")
            yield number, wire, (at, at + size)
            at += size

    def _count(self) -> None:
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise _damaged(f"has more than {_MOST_FIELDS:,} fields, more than edgetext writes")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned number of up to 64 bits, and where the next byte is."""
        value = 0
        for index in range(at, min(at + 10, end)):
            byte = self._data[index]
            value |= (byte & 0x7F) << (7 * (index - at))
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, index + 1
        raise _damaged(f"truncated, or not an ONNX model (a number at byte {at:,})")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
