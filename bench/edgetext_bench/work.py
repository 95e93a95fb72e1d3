"""What one decoded token costs in a graph: bytes of weights to read, operators to run.

The runtime's own reader knows only the graphs that its numpy backend runs; this one takes every bundle, whose
hashes have been checked before, and reads no more than names, types and shapes of an ONNX file.

Source of the field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np

from edgetext_runtime.manifest import Manifest

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 16: 16, 21: 4, 22: 4}
"""Bits of an element by its type's number."""
_TABLES = ("Gather", "GatherBlockQuantized")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _NODE, _INITIALIZER, _OUTPUT = 7, 1, 5, 12


class Work(NamedTuple):
    """What one decoded token costs."""

    weight_bytes: int
    """Weights read: all, but of a table that is looked up in one row; those widened at load as they are
    then."""
    nodes: int
    """Operators run; those that only turn constants into constants are done at load."""


class _Size(NamedTuple):
    """A constant: elements, bits of each, rows of its first axis."""

    elements: int
    bits: int
    rows: int

    @property
    def bytes(self) -> int:
        return self.elements * self.bits // 8


@dataclass
class _Node:
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    cast_to: int = 0


@dataclass
class _Graph:
    nodes: list[_Node] = field(default_factory=list)
    constants: dict[str, _Size] = field(default_factory=dict)


def work_per_token(model: bytes, vocab_size: int) -> Work:
    """Count what a token costs.

    Args:
        model: an ONNX file with its weights inside.
        vocab_size: V, which is how many rows a table has that is looked up.
    """
    graph = _Graph()
    _read_graph(_graph_of(model), graph)
    sizes = dict(graph.constants)
    read: dict[str, int] = {}
    nodes = 0
    for node in graph.nodes:
        operands = [name for name in node.inputs if name]
        if operands and all(name in sizes for name in operands):  # folded when the session loads
            largest = max((sizes[name] for name in operands), key=lambda size: size.elements)
            bits = _BITS.get(node.cast_to, largest.bits) if node.operator == "Cast" else largest.bits
            sizes |= dict.fromkeys(node.outputs, _Size(largest.elements, bits, vocab_size))
            continue
        for place, name in enumerate(operands):
            if name in sizes:
                size = sizes[name]
                looked_up = node.operator in _TABLES and place != 1
                needed = size.bytes // max(1, size.rows) if looked_up else size.bytes
                read[name] = max(read.get(name, 0), needed)
        nodes += 1
    return Work(sum(read.values()), nodes)


def without_sampling(model: bytes) -> bytes:
    """The same model up to its logits and its new state: no ``next_token``, no operators for it."""
    kept, needed = list[memoryview](), set[str]()
    fields = list(_spans(_graph_of(model)))
    for number, _, content, whole in sorted(fields, key=lambda f: f[0] == _OUTPUT)[::-1]:
        if number == _OUTPUT:
            name = bytes(dict(_fields(content))[1]).decode()
            if name == "next_token":
                continue
            needed.add(name)
        elif number == _NODE:  # in the order of execution, so that this comes after all that read its outputs
            body = _Graph()
            node = _read_node(content, body)
            if needed.isdisjoint(node.outputs):
                continue
            needed |= {name for part in (node, *body.nodes) for name in part.inputs}
        kept.append(whole)
    graph = _of_length(_GRAPH, b"".join(reversed(kept)))
    return b"".join(graph if n == _GRAPH else whole for n, _, _, whole in _spans(memoryview(model)))


def cache_bytes_per_token(manifest: Manifest) -> int:
    """Bytes of KV cache that a token adds, which each later token reads; 0 for recurrent models."""
    caches = [entry for entry in manifest.state if entry.kind == "kv_cache"]
    return sum(prod(entry.concrete_shape(1, 1)) * np.dtype(entry.dtype).itemsize for entry in caches)


def _graph_of(model: bytes) -> memoryview:
    return dict(_fields(memoryview(model)))[_GRAPH]


def _read_graph(data: memoryview, graph: _Graph) -> None:
    for number, content in _fields(data):
        if number == _NODE:
            graph.nodes.append(_read_node(content, graph))
        elif number == _INITIALIZER:
            name, size = _read_tensor(content)
            graph.constants[name] = size


def _read_node(data: memoryview, graph: _Graph) -> _Node:
    node = _Node()
    for number, content in _fields(data):
        if number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(bytes(content).decode())
        elif number == 4:
            node.operator = bytes(content).decode()
        elif number == 5:
            attribute = dict(_fields(content))
            if 6 in attribute:  # the body of a Scan runs once a token
                _read_graph(attribute[6], graph)
            if bytes(attribute.get(1, b"")) == b"to":
                node.cast_to = int.from_bytes(attribute.get(3, b""), "little")
    return node


def _read_tensor(data: memoryview) -> tuple[str, _Size]:
    dims: list[int] = []
    kind, name = 0, ""
    for number, content in _fields(data, packed=1):
        if number == 1:
            dims.append(int.from_bytes(content, "little"))
        elif number == 2:
            kind = int.from_bytes(content, "little")
        elif number == 8:
            name = bytes(content).decode()
    return name, _Size(prod(dims), _BITS.get(kind, 32), dims[0] if dims else 1)


def _fields(data: memoryview, packed: int = 0) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message, numbers as eight bytes; ``packed`` is a field of repeated numbers."""
    for number, wire, content, _ in _spans(data):
        if wire == _BYTES and number == packed:
            at = 0
            while at < len(content):
                value, at = _varint(content, at)
                yield number, _eight(value)
        else:
            yield number, content


def _spans(data: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """Number, wire type and content of the fields of a message, and all their bytes."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            content = _eight(value)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
            if length is None:
                length, at = _varint(data, at)
            content, at = data[at : at + length], at + length
        yield key >> 3, wire, content, data[start:at]


def _eight(value: int) -> memoryview:
    return memoryview((value & (1 << 64) - 1).to_bytes(8, "little"))


def _of_length(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    head, length = bytes([number << 3 | _BYTES]), len(content)
    while length >= 0x80:
        head, length = head + bytes([length & 0x7F | 0x80]), length >> 7
    return head + bytes([length]) + content


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
