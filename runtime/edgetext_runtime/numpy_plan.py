"""From the nodes of a step graph to the layers that numpy runs.

Nodes are read in order, and every value gets a symbol: what it is, and which axes it has. A node of the
network becomes a layer (``numpy_turns``, ``numpy_products``). Those that count tokens or sample are compared
with `numpy_rules.RULES`, one by one, as sampling is not run from the graph. A node
that is neither is refused by name: a graph means here what it means to onnxruntime, or it is not run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .manifest import Manifest
from .numpy_layers import Layer, Slot
from .numpy_network import Hidden, Network, StateValue, Symbol
from .numpy_products import PRODUCTS
from .numpy_rules import DEFAULTS, RULES
from .numpy_turns import TURNS
from .numpy_weights import refuse
from .onnx_reader import Graph, Node


class Plan(NamedTuple):
    """What is run for every call of the graph.

    Attributes:
        layers: in the order of execution.
        slots: the values between them.
        logits: the slot of the logits, [B, n, V].
        suppressed: ids that are never sampled.
    """

    layers: tuple[Layer, ...]
    slots: tuple[Slot, ...]
    logits: int
    suppressed: tuple[int, ...]


def make_plan(graph: Graph, manifest: Manifest, size: int) -> Plan:
    """Work out how to run a graph whose signature is known to be that of its manifest.

    Args:
        graph: the graph.
        manifest: what it belongs to.
        size: bytes of the model, which bound the memory for its weights.

    Raises:
        BundleError: naming the first node that edgetext would not have written.
    """
    return _Planner(graph, manifest, size).plan()


class _Planner:
    """One walk over the nodes."""

    def __init__(self, graph: Graph, manifest: Manifest, size: int) -> None:
        self._graph = graph
        self._manifest = manifest
        self._network = Network(manifest, size)
        self._symbols: dict[str, Symbol] = {"": None}
        self._meanings: set[str] = set()
        self._mask: tuple[int, ...] = ()
        self._suppressed: tuple[int, ...] = ()

    def plan(self) -> Plan:
        """Read every node, then check what the outputs of the graph have become."""
        states = {entry.input: StateValue(entry) for entry in self._manifest.state}
        inputs: dict[str, Symbol] = {value.name: value.name for value in self._graph.inputs}
        inputs.update(states)
        inputs.update((s.input, self._network.condition(s)) for s in self._manifest.state if not s.output)
        if clash := sorted(set(inputs) & set(self._graph.constants)):
            raise refuse(f"{clash[0]!r} is an input and a weight")
        self._symbols.update(self._graph.constants)
        self._symbols.update(inputs)
        for node in self._graph.nodes:
            self._read(node)
        logits = self._symbols.get("logits")
        vocab_size = self._manifest.vocab_size
        if not isinstance(logits, Hidden) or (logits.axes, logits.width) != ("BNX", vocab_size):
            raise refuse("'logits' are not [batch, n, vocabulary]")
        chosen = self._symbols.get("next_token")
        if not isinstance(chosen, str) or chosen != "next_token":
            raise refuse("'next_token' is not sampled as edgetext does")
        for entry in (entry for entry in self._manifest.state if entry.output):
            found = self._symbols.get(entry.output)
            if not isinstance(found, StateValue) or found != StateValue(entry, past=False):
                raise refuse(f"{entry.output!r} is not what becomes of {entry.input!r}")
        network = self._network
        return Plan(tuple(network.layers), tuple(network.slots), logits.slot, self._suppressed)

    def _read(self, node: Node) -> None:
        """Find out what a node does, and give its outputs their symbols."""
        if unknown := [name for name in node.inputs if name not in self._symbols]:
            raise refuse(f"the node {node} reads {unknown[0]!r}, which nothing has written")
        operands = [self._symbols[name] for name in node.inputs]
        labels = [self._label(*pair) for pair in zip(operands, node.inputs, strict=True)]
        meaning = RULES.get(_sentence(node, labels))
        results: Sequence[Symbol]
        if meaning is None:
            results = self._layer(node, operands)
        else:
            results = self._understood(node, meaning.split(), labels, operands)
        if any(node.outputs[len(results) :]):
            raise refuse(f"the node {node} has {len(node.outputs)} outputs, not {len(results)}")
        for name, symbol in zip(node.outputs, results, strict=False):
            if name and symbol is None:
                raise refuse(f"the node {node} gives {name!r}, which edgetext does not ask for")
            if name and name in self._symbols:
                raise refuse(f"the node {node} writes {name!r}, which exists already")
            if name:
                self._symbols[name] = symbol

    def _layer(self, node: Node, operands: list[Symbol]) -> list[Symbol]:
        """The outputs of a node of the network."""
        kind = (node.domain, node.operator)
        lower = TURNS.get(kind) or PRODUCTS.get(kind)
        if lower is None:
            domain = f" of the domain {node.domain!r}" if node.domain else ""
            raise refuse(f"the node {node}{domain} is unknown here")
        self._network.node = node
        return lower(self._network, operands)

    def _label(self, symbol: Symbol, name: str) -> str:
        """What an operand is called in the rules; ``?`` for what has no name there."""
        if isinstance(symbol, str):
            return symbol
        if isinstance(symbol, np.ndarray) and symbol.size <= 1:
            return str(symbol.tolist())
        if isinstance(symbol, np.ndarray) and symbol.shape == (self._manifest.vocab_size,):
            return "suppressed" if np.isin(symbol, (0, -np.inf)).all() else "?"
        return "logits" if name == "logits" else "?"

    def _understood(
        self, node: Node, meaning: list[str], labels: list[str], operands: list[Symbol]
    ) -> list[str]:
        """The outputs of a node that counts tokens or samples; every such thing is worked out once."""
        fresh = set(meaning) - set(labels)  # a Cast or a Reshape keeps the meaning
        if fresh & self._meanings:
            raise refuse(f"the node {node} does what another node has done")
        self._meanings |= fresh
        mask = operands[-1]
        if labels[-1] == "suppressed" and isinstance(mask, np.ndarray):
            self._mask = tuple(np.flatnonzero(mask).tolist())
        if node.operator == "TopK":
            self._suppressed = self._mask if labels[0] == "allowed" else ()
        return meaning


def _sentence(node: Node, labels: list[str]) -> str:
    """A node as the rules write it."""
    given = {key: value for key, value in node.attributes.items() if DEFAULTS.get(key) != value}
    attributes = "".join(f" {key}={value}" for key, value in sorted(given.items()))
    return f"{node.domain}{node.operator}({', '.join(labels)}){attributes}"
