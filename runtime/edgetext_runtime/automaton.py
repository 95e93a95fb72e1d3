"""Patterns as trees, and trees as byte automata: what constrained generation is compiled to.

A tree (`Node`) says which texts match; `compile_tree` turns it into a deterministic automaton
over the bytes of their UTF-8: Thompson's construction (1968), then the subset construction (Rabin & Scott
1959). Both are bounded, so that no pattern can exhaust the memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

MAX_STATES = 20_000
"""Most states of an automaton: 20 MB of transitions."""
_MAX_PARTS = 200_000
_MAX_WORK = 2_000_000
"""Most steps of the subset construction: a few seconds."""
_LAST_CODE_POINT = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_EQUAL_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, _LAST_CODE_POINT))
"""Code points whose UTF-8 has one, two, three and four bytes, without surrogates."""
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Chars:
    """One character out of inclusive ranges of code points."""

    ranges: Ranges


@dataclass(frozen=True)
class AnyByte:
    """One byte, whatever it is."""


@dataclass(frozen=True)
class Sequence:
    """One part after the other; none is the empty text."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Choice:
    """Any one of the options."""

    options: "tuple[Node, ...]"


@dataclass(frozen=True)
class Repeat:
    """A part, ``least`` to ``most`` times (``None``: without end)."""

    part: "Node"
    least: int
    most: int | None


@dataclass(frozen=True)
class Listing:
    """Parts in their order, each with whether it is needed; a separator between those that are there."""

    parts: "tuple[tuple[Node, bool], ...]"
    separator: "Node"


Node = Chars | AnyByte | Sequence | Choice | Repeat | Listing


def literal(text: str) -> Sequence:
    """The tree of a text itself."""
    return Sequence(tuple(Chars(((ord(c), ord(c)),)) for c in text))


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The code points outside the ranges, surrogates left out."""
    gaps, start = [], 0
    for low, high in sorted([*ranges, _SURROGATES]):
        if low > start:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _LAST_CODE_POINT:
        gaps.append((start, _LAST_CODE_POINT))
    return tuple(gaps)


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over bytes; state 0 is dead, state 1 the start.

    Attributes:
        table: the next state by state and byte, int32 [S, 256].
        accepts: whether a text may end in a state, bool [S].
    """

    table: NDArray[np.int32]
    accepts: NDArray[np.bool_]

    def walk(self, state: int, data: bytes) -> int:
        """The state after some bytes."""
        for byte in data:
            state = int(self.table[state, byte])
        return state


def avoid(texts: Iterable[str], name: str) -> Automaton:
    """The automaton of the texts that contain none of ``texts``.

    Raises:
        InputError: if the automaton would be too large.
    """
    ending = Sequence((Repeat(AnyByte(), 0, None), Choice(tuple(literal(text) for text in texts))))
    found = compile_tree(ending, name)  # accepts where one of the texts has just ended; is never dead before
    table = np.where(found.accepts[found.table], 0, found.table)
    accepts = ~found.accepts
    accepts[0] = False
    return Automaton(table.astype(np.int32), accepts)


def compile_tree(tree: Node, name: str) -> Automaton:
    """Compile a tree.

    Args:
        tree: what shall match.
        name: the option it comes from, for the error message.

    Raises:
        InputError: if the automaton would be too large.
    """
    parts = _Parts(name)
    end = parts.add(tree, parts.new())
    return _determinise(parts, 0, end, name)


def _too_large(name: str, what: str) -> InputError:
    return InputError(f"{name} {what}: use fewer or smaller repetitions")


class _Parts:
    """The nondeterministic automaton under construction: byte edges and empty edges by state."""

    def __init__(self, name: str) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []  # (lowest byte, highest byte, next state)
        self.empty: list[list[int]] = []
        self._name = name

    def new(self) -> int:
        """A new state."""
        if len(self.edges) >= _MAX_PARTS:
            raise _too_large(self._name, f"is too large (over {_MAX_PARTS:,} parts)")
        self.edges.append([])
        self.empty.append([])
        return len(self.edges) - 1

    def add(self, node: Node, start: int) -> int:
        """Append a node after the state ``start``; return the state after it."""
        match node:
            case Chars(ranges):
                return self._add_paths(
                    start, (path for low, high in ranges for path in utf8_paths(low, high))
                )
            case AnyByte():
                return self._add_paths(start, [((0, 255),)])
            case Sequence(parts):
                for part in parts:
                    start = self.add(part, start)
                return start
            case Choice(options):
                end = self.new()
                for option in options:
                    first = self.new()
                    self.empty[start].append(first)
                    self.empty[self.add(option, first)].append(end)
                return end
            case Repeat():
                return self._add_repeat(node, start)
            case Listing():
                return self._add_listing(node, start)

    def _add_paths(self, start: int, paths: Iterable[tuple[tuple[int, int], ...]]) -> int:
        end = self.new()
        reading: dict[tuple[tuple[int, int], ...], int] = {(): end}  # the state that reads the rest of a path
        for path in paths:
            for at in range(len(path) - 1, 0, -1):
                rest = path[at:]
                if rest not in reading:
                    reading[rest] = self.new()
                    self.edges[reading[rest]].append((*path[at], reading[rest[1:]]))
            self.edges[start].append((*path[0], reading[path[1:]]))
        return end

    def _add_repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self.add(node.part, start)
        end = self.new()
        self.empty[start].append(end)
        if node.most is None:
            again = self.new()
            self.empty[start].append(again)
            self.empty[self.add(node.part, again)] += [again, end]
            return end
        for _ in range(node.most - node.least):
            first = self.new()
            self.empty[start].append(first)
            start = self.add(node.part, first)
            self.empty[start].append(end)
        return end

    def _add_listing(self, node: Listing, start: int) -> int:
        nothing, something = True, self.new()  # is nothing so far possible; the state after something
        for part, needed in node.parts:
            first = self.new()
            if nothing:
                self.empty[start].append(first)
            self.empty[self.add(node.separator, something)].append(first)
            after = self.add(part, first)
            if not needed:
                self.empty[something].append(after)
            nothing, something = nothing and not needed, after
        if nothing:
            self.empty[start].append(something)
        return something


def utf8_paths(low: int, high: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """The UTF-8 of the code points from ``low`` to ``high`` as sequences of byte ranges."""
    for first, last in _EQUAL_LENGTHS:
        begin, end = max(low, first), min(high, last)
        if begin <= end:
            yield from _paths_between(chr(begin).encode(), chr(end).encode())


def _paths_between(low: bytes, high: bytes) -> Iterator[tuple[tuple[int, int], ...]]:
    """All encodings of one length from ``low`` to ``high``."""
    first, last = low[0], high[0]
    rest = len(low) - 1
    if rest == 0:
        yield ((first, last),)
        return
    lowest, highest = b"\x80" * rest, b"\xbf" * rest
    if first == last:
        yield from (((first, first), *path) for path in _paths_between(low[1:], high[1:]))
        return
    if low[1:] != lowest:
        yield from (((first, first), *path) for path in _paths_between(low[1:], highest))
        first += 1
    if high[1:] != highest:
        yield from (((last, last), *path) for path in _paths_between(lowest, high[1:]))
        last -= 1
    if first <= last:
        yield ((first, last), *(((0x80, 0xBF),) * rest))


def _determinise(parts: _Parts, start: int, end: int, name: str) -> Automaton:
    work = 0

    def closure(states: Iterable[int]) -> frozenset[int]:
        nonlocal work
        found, queue = set(states), list(states)
        while queue:
            for following in parts.empty[queue.pop()]:
                if following not in found:
                    found.add(following)
                    queue.append(following)
        work += len(found)
        if work > _MAX_WORK:
            raise _too_large(name, "takes too long to compile")
        return frozenset(found)

    numbers: dict[frozenset[int], int] = {frozenset(): 0, closure([start]): 1}
    members = list(numbers)
    rows = [np.zeros(256, np.int32)]
    for state in members:  # grows as it is read
        if not state:
            continue
        edges = [edge for part in state for edge in parts.edges[part]]
        row = np.zeros(256, np.int32)
        for low, after in pairwise(sorted({bound for a, b, _ in edges for bound in (a, b + 1)})):
            reached = closure({target for a, b, target in edges if a <= low <= b})
            if reached not in numbers:
                if len(numbers) >= MAX_STATES:
                    raise _too_large(name, f"is too large (over {MAX_STATES:,} states)")
                numbers[reached] = len(members)
                members.append(reached)
            row[low:after] = numbers[reached]
        rows.append(row)
    return Automaton(np.stack(rows), np.array([end in state for state in members]))
