"""Constraints: which tokens may come next so that the text satisfies a list, a pattern or a schema.

A constraint is compiled once into an automaton over bytes and laid over the vocabulary, which is kept as a
trie of the tokens' bytes: the mask of a state walks all tokens at once, level by level, and is remembered. A
token is allowed if the text can still be completed after it; the end of the text, where the text is complete.

So a text that ends with "eos" satisfies its constraint. One that ends with "length", "context" or "cancelled"
is the beginning of one that does: give enough ``max_new_tokens``, or bound the repetitions of the pattern.
"""

import json
from collections.abc import Callable
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .automaton import Automaton, Choice, avoid, compile_tree, literal
from .errors import InputError
from .json_schema import parse_schema
from .options import Settings
from .patterns import parse_pattern
from .tokenizer import Tokenizer, WordTokenizer

_KEPT_MASKS = 1024
_KEPT_CONSTRAINTS = 64
_START = 2  # 2 * state + variant, where every text begins
Mask = NDArray[np.bool_]
IntArray = NDArray[np.int32]


_BUILDERS: dict[str, Callable[[Any], Automaton]] = {
    "bad_words": lambda words: avoid(words, "bad_words"),
    "choices": lambda texts: compile_tree(Choice(tuple(map(literal, texts))), "choices"),
    "regex": lambda pattern: compile_tree(parse_pattern(pattern), "regex"),
    "json_schema": lambda schema: compile_tree(parse_schema(schema), "json_schema"),
}


class GuideState(NamedTuple):
    """Where a text stands.

    Attributes:
        state: of the automaton.
        variant: how the next token is written, see `Vocabulary`.
    """

    state: int
    variant: int


class _Trie:
    """The tokens' bytes, level by level: what all of them do to an automaton is a few array look-ups."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._levels: list[tuple[IntArray, NDArray[np.uint8]]] = []  # (parent, byte) of every node of a level
        nodes = {b"": 0}
        for depth in range(1, max(map(len, pieces), default=0) + 1):
            level = sorted({piece[:depth] for piece in pieces if len(piece) >= depth})
            parents = np.array([nodes[path[:-1]] for path in level], np.int32)
            self._levels.append((parents, np.array([path[-1] for path in level], np.uint8)))
            nodes |= {path: len(nodes) + n for n, path in enumerate(level)}
        self._states = len(nodes)
        self._node = np.array([nodes[piece] for piece in pieces], np.int32)

    def walk(self, automaton: Automaton, state: int) -> IntArray:
        """The state after every token, [V]; that of a token without bytes is 0 (dead)."""
        states = np.empty(self._states, np.int32)
        states[0], at = state, 1
        for parents, level in self._levels:
            states[at : at + len(level)] = automaton.table[states[parents], level]
            at += len(level)
        states[0] = 0
        return states[self._node]


class Vocabulary:
    """What every token adds to a text, in bytes.

    A word tokenizer writes a token with a space before it (variant 1) or without (variant 0: at the beginning
    and after an opening bracket); other tokenizers know variant 0 only.

    Attributes:
        size: V.
        eos: the id that ends a text.
        spells_all: whether every text can be written in these tokens.
        variant_after: the variant of the token after every token, int32 [V].
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.size, self.eos = tokenizer.vocab_size, tokenizer.eos_id
        self.spells_all = tokenizer.kind == "bpe"
        self.variant_after = np.zeros(self.size, np.int32)
        previous = [self.eos]  # a token before each variant
        if isinstance(tokenizer, WordTokenizer):
            self.variant_after = 1 - np.array(tokenizer._tight_after, np.int32)
            previous += np.flatnonzero(self.variant_after)[:1].tolist()
        self.pieces = [[tokenizer._piece(token, p) for token in range(self.size)] for p in previous]
        self._tries = [_Trie(pieces) for pieces in self.pieces]

    def walk(self, automaton: Automaton, guide: GuideState) -> IntArray:
        """The automaton's state after every token, [V]; 0 where the token cannot come next."""
        return self._tries[guide.variant].walk(automaton, guide.state)


class Constraint:
    """An automaton laid over a vocabulary; shared by all generations and threads that use it.

    Args:
        automaton: what the text must match.
        vocabulary: the tokens.
        name: the option it comes from, for the error message.

    Raises:
        InputError: if no text of these tokens matches.
    """

    start = GuideState(1, 0)

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary, name: str) -> None:
        self._automaton = automaton
        self._vocabulary = vocabulary
        self._masks: dict[GuideState, Mask] = {}
        self._live = np.ones(2 * len(automaton.table), bool)  # by 2 * state + variant: can it be completed
        self._live[:2] = False
        self._ends = automaton.accepts & ~automaton.table.any(axis=1)
        if not vocabulary.spells_all and not automaton.accepts[1:].all():
            self._live = self._find_live()
        if not self._live[_START]:
            raise InputError(
                f"{name} cannot be written in the model's vocabulary; allowed is what its tokens spell"
            )

    def mask(self, guide: GuideState) -> Mask:
        """Whether each token may come next, bool [V]; not to be changed."""
        mask = self._masks.get(guide)
        if mask is None:
            mask = self._live[self._following(guide)]
            mask[self._vocabulary.eos] = self._automaton.accepts[guide.state]
            if len(self._masks) >= _KEPT_MASKS:
                self._masks.clear()
            self._masks[guide] = mask
        return mask

    def advance(self, guide: GuideState, token: int) -> GuideState:
        """Where the text stands after one of the tokens that were allowed."""
        piece = self._vocabulary.pieces[guide.variant][token]
        if not piece:
            return guide
        state = self._automaton.walk(guide.state, piece)
        return GuideState(state, int(self._vocabulary.variant_after[token]))

    def is_complete(self, guide: GuideState) -> bool:
        """Whether the text is a match and nothing can be added to it."""
        return bool(self._ends[guide.state])

    def _following(self, guide: GuideState) -> IntArray:
        """2 * state + variant after every token, [V]."""
        states = self._vocabulary.walk(self._automaton, guide)
        return np.where(states > 0, 2 * states + self._vocabulary.variant_after, 0)

    def _find_live(self) -> NDArray[np.bool_]:
        """From where a match can be reached by tokens, which may not spell every text."""
        edges: dict[int, IntArray] = {}
        queue = [_START]
        while queue:
            code = queue.pop()
            if code not in edges:
                edges[code] = np.unique(self._following(GuideState(code // 2, code % 2)))
                queue += edges[code][edges[code] > 0].tolist()
        live = np.repeat(self._automaton.accepts, 2)
        growing = True
        while growing:
            growing = False
            for code, following in reversed(edges.items()):
                if not live[code] and live[following].any():
                    live[code] = growing = True
        return live


class ConstraintCache:
    """The constraints of the bundle of a tokenizer, each compiled once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._compiled: dict[tuple[str, str], Constraint] = {}
        self._lock = Lock()

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._tokenizer)

    def compile(self, settings: Settings) -> tuple[Constraint, ...]:
        """What a text with these settings must satisfy.

        Raises:
            InputError: if a constraint is not understood, too large, or cannot be written in the vocabulary.
        """
        found = []
        for name, build in _BUILDERS.items():
            value = getattr(settings, name)
            if value is None or (name == "bad_words" and not value):
                continue
            try:
                key = json.dumps(value)
            except (TypeError, ValueError, RecursionError) as error:
                raise InputError(f"{name} is not JSON ({error}); allowed are JSON values") from error
            with self._lock:
                if (name, key) not in self._compiled:
                    constraint = Constraint(build(value), self._vocabulary, name)
                    if len(self._compiled) >= _KEPT_CONSTRAINTS:
                        del self._compiled[next(iter(self._compiled))]
                    self._compiled[name, key] = constraint
                found.append(self._compiled[name, key])
        return tuple(found)
