"""The network of a graph as far as its nodes have been read: what values are, and the layers between."""

from collections.abc import Callable
from typing import NamedTuple

from .errors import BundleError
from .manifest import Manifest, StateTensor
from .numpy_layers import Layer, Repeat, Slot
from .numpy_weights import Weights, refuse
from .onnx_reader import Attribute, Node
from .sampling import AnyArray

_MOST_WIDTH = 1 << 20
"""Most numbers that all layers together may hold for one token."""


class Hidden(NamedTuple):
    """A value of the network. ``axes``: B batch, T time, N positions, D the one direction, X the width.

    A condition has neither T nor N; 1 is an axis in their place.
    """

    slot: int
    width: int
    axes: str


class StateValue(NamedTuple):
    """A state tensor, before (past) or after (present) a layer has advanced it; ``turned``: as [1, B, H]."""

    entry: StateTensor
    past: bool = True
    turned: bool = False


Symbol = str | AnyArray | Hidden | StateValue | None
"""A meaning (of the rules), a constant, a value of the network, a state, or an operand that is not given."""


class Network:
    """Collects the layers of a graph.

    Args:
        manifest: what the graph belongs to.
        size: bytes of the model.

    Attributes:
        layers: in the order of execution.
        slots: the values between them.
        weights: makes the matrices of the layers.
        node: the node that is being read.
    """

    def __init__(self, manifest: Manifest, size: int) -> None:
        self.layers: list[Layer] = []
        self.slots: list[Slot] = []
        self.vocab_size = manifest.vocab_size
        self.context = manifest.context_length or 0
        self.weights = Weights(size)
        self._width = 0
        self._advanced: set[str] = set()
        self.node = Node("", "", "", (), (), {})

    def odd(self) -> BundleError:
        """The error for a node whose operator is known, but not like this."""
        inputs, attributes = list(self.node.inputs), dict(self.node.attributes)
        return refuse(f"the node {self.node} does not fit, with inputs {inputs} and attributes {attributes}")

    def require(self, *conditions: object) -> None:
        """Refuse the node unless all conditions hold."""
        if not all(conditions):
            raise self.odd()

    def attributes(self, **expected: Attribute) -> None:
        """Refuse the node unless it has these attributes and no other; zeros, the defaults, may be absent."""
        zeros = {name: value for name, value in expected.items() if value == 0}
        self.require({**zeros, **self.node.attributes} == expected)

    def hidden(self, width: int, axes: str) -> Hidden:
        """A new value between layers.

        Raises:
            BundleError: if the layers hold too much.
        """
        self._width += width
        if self._width > _MOST_WIDTH:
            raise refuse(f"the layers hold more than {_MOST_WIDTH:,} numbers for one token")
        self.slots.append(Slot(width, "N" in axes))
        return Hidden(len(self.slots) - 1, width, axes)

    def condition(self, entry: StateTensor) -> Hidden:
        """A condition, [B, C]."""
        self.require(len(entry.shape) == 2, entry.dtype == "float32")
        out = self.hidden(int(entry.shape[1]), "BX")
        self.layers.append(Repeat(entry.input, out.slot))
        return out

    def like(self, x: Hidden, width: int | None = None) -> Hidden:
        """A new value with the axes of x, and its width unless another is given."""
        return self.hidden(width or x.width, x.axes)

    def advance(self, state: StateValue, shape: tuple[int | str, ...], *, turned: bool = False) -> StateValue:
        """The present value of a state tensor, which one layer alone may take and must find as it expects."""
        entry = state.entry
        self.require(state == StateValue(entry, turned=turned), entry.input not in self._advanced)
        self.require(entry.shape == shape, entry.dtype == "float32")
        self._advanced.add(entry.input)
        return StateValue(entry, past=False, turned=turned)


Lowering = Callable[[Network, list[Symbol]], list[Symbol]]
"""Reads the current node, whose operands are given; returns what its outputs are, ``None`` for those that
edgetext does not use."""
