"""A thin builder for ONNX graphs: nodes in order, names made unique, constants stored once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgetext.errors import ExportError

OPSET = 21
"""Version of the standard operators. Opset 21 with IR 10 is read by onnxruntime 1.18 and everything later."""
IR_VERSION = 10
PORTABLE_OPSET = 18
"""Version of the standard operators in portable graphs: the oldest that has all of them, for old runtimes."""
PORTABLE_IR_VERSION = 8
"""The IR that came with it."""
MICROSOFT = "com.microsoft"
"""Domain of onnxruntime's own operators."""
ORT_FLOOR = "1.23"
"""Oldest onnxruntime with every kernel used here; the last to come was 8-bit MatMulNBits on ARM64."""
MAX_MODEL_BYTES = 2**31 - 1
"""Largest protobuf; weights are inline, so also the largest model."""

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
INT8, INT4 = TensorProto.INT8, TensorProto.INT4
_NOT_IN_STANDARD = {"SimplifiedLayerNormalization"}
"""Operators that onnxruntime registers in the standard domain though the standard does not have them."""


class GraphBuilder:
    """Collects nodes, constants, inputs and outputs, and serialises them as one model.

    A `portable` one has standard operators only, at `PORTABLE_OPSET`; others are refused when it is built.
    """

    def __init__(self, *, portable: bool = False) -> None:
        self.opset = PORTABLE_OPSET if portable else OPSET
        self._portable = portable
        self._prefix = ""
        self._domains: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._model = onnx.ModelProto()  # weights go where they stay: a copy would be as large again
        self._constants: set[str] = set()
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input; returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph output (some node must produce it); returns its name."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store an initialiser under `name`, once: asking again for the same name returns the first."""
        if name not in self._constants:
            # Not ascontiguousarray: that would turn a scalar into a vector.
            array = np.array(value, order="C")
            self._store(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.tobytes())
        return name

    def packed(self, name: str, value: NDArray[np.int16]) -> str:
        """Store an initialiser of 4-bit integers (-8…7), two a byte."""
        if name not in self._constants:
            flat = np.pad(value.ravel(), (0, value.size % 2)).astype(np.uint8) & 15
            self._store(name, INT4, value.shape, (flat[::2] | (flat[1::2] << 4)).tobytes())
        return name

    def scalar(self, value: int | float, dtype: type[np.generic]) -> str:
        """Return a shared scalar constant of the given numpy type."""
        return self.constant(f"const.{dtype.__name__}.{value}", np.array(value, dtype))

    def ints(self, *values: int) -> str:
        """Return a shared int64 vector constant (axes, shapes, indices)."""
        return self.constant("const.axes." + "_".join(map(str, values)), np.array(values, np.int64))

    def node(
        self, operator: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Append a node with one output and return that output's name (made up unless given)."""
        return self.nodes(operator, inputs, [output or self._fresh(operator)], domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> tuple[str, ...]:
        """Append a node with several named outputs (an empty name is an output not wanted)."""
        name = f"{self._prefix}{len(self._nodes)}.{operator}"
        self._domains.add(domain)
        self._nodes.append(
            helper.make_node(operator, list(inputs), list(outputs), name=name, domain=domain, **attributes)
        )
        return tuple(outputs)

    def split(self, x: str, axis: int, *sizes: int) -> tuple[str, ...]:
        """Parts of an axis of x, of these sizes."""
        outputs = [f"{x}.{part}" for part in range(len(sizes))]
        return self.nodes("Split", [x, self.ints(*sizes)], outputs, axis=axis)

    def body(self, name: str) -> GraphBuilder:
        """A builder for the body of a loop: its own values start with `name`, and it sees all constants."""
        inner = GraphBuilder(portable=self._portable)
        inner._prefix, inner._domains = f"{name}.", self._domains
        inner._model, inner._constants = self._model, self._constants
        return inner

    def as_body(self) -> onnx.GraphProto:
        """What a builder from `body` holds, as the attribute of a loop."""
        return helper.make_graph(self._nodes, f"{self._prefix}body", self._inputs, self._outputs)

    def build(self, name: str, metadata: Mapping[str, str], docs: Mapping[str, str] | None = None) -> bytes:
        """Check the graph and serialise it, once; `docs` says what inputs and outputs are, by name.

        Raises ExportError if it is invalid or too large for one file.
        """
        for value in (*self._inputs, *self._outputs):
            value.doc_string = (docs or {}).get(value.name, "")
        opsets = [helper.make_opsetid("", self.opset)]
        if not self._portable and MICROSOFT in self._domains:
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        model, graph = self._model, self._model.graph
        model.ir_version = PORTABLE_IR_VERSION if self._portable else IR_VERSION
        model.producer_name = "edgetext"
        model.opset_import.extend(opsets)
        helper.set_model_props(model, dict(metadata))
        graph.name = name
        graph.node.extend(self._nodes)
        graph.input.extend(self._inputs)
        graph.output.extend(self._outputs)
        size = model.ByteSize()
        if size > MAX_MODEL_BYTES:
            raise ExportError(
                f"the model takes {size:,} bytes; a bundle keeps weights inline, below {MAX_MODEL_BYTES:,}: "
                f"export with --int8 or use a smaller student"
            )
        check_model(model, () if self._portable else _NOT_IN_STANDARD)
        return model.SerializeToString(deterministic=True)

    def _store(self, name: str, dtype: int, shape: Sequence[int], data: bytes) -> None:
        self._constants.add(name)
        self._model.graph.initializer.add(name=name, data_type=dtype, dims=shape, raw_data=data)

    def _fresh(self, operator: str) -> str:
        return f"{self._prefix}{operator.lower()}.{len(self._nodes)}"


def check_model(model: onnx.ModelProto, tolerated: Collection[str] = _NOT_IN_STANDARD) -> None:
    """Run onnx's checker, which skips operators of foreign domains (if the model says that it has such).

    It does not skip unknown standard ones, so those `tolerated` are passed off as foreign. Raises ExportError
    if the model is not valid.
    """
    foreign = [node for node in model.graph.node if not node.domain and node.op_type in tolerated]
    for node in foreign:
        node.domain = MICROSOFT
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    finally:
        for node in foreign:
            node.domain = ""
