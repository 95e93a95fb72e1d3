"""Interpolated Kneser–Ney n-gram model over token ids: the referee between text generators.

It is small, exact, has no hyper-parameters to tune and nothing in common with the generators it judges:

* **LM score**: ``KneserNey.fit(real, V).score(generated)``: are samples likely under real text? (quality)
* **reverse-LM score**: ``KneserNey.fit(generated, V).score(held_out)``: is real text likely under samples?
  (diversity, and quality once more: Zhao et al. 2018; Caccia et al. 2020, "Language GANs Falling Short")

Both are mean nats per token, lower is better, and mean something only side by side and at equal sample sizes.

Sources: Kneser & Ney 1995; Chen & Goodman 1999, "An empirical study of smoothing techniques for language
modeling" (interpolation, and three discounts per order estimated from the counts of counts, their eq. 26);
Heafield et al. 2013 (adjusted counts: n-grams that begin at the boundary keep their plain count, because
nothing can precede them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetext_runtime.errors import InputError

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

FALLBACK_DISCOUNT = 0.75
"""Used where an order has no n-grams seen once, or none seen twice (as with a small set of characters)."""


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order: sorted keys, discounted counts, and per context what is set free."""

    keys: Ids  # prefix id * (V + 1) + last token, ascending; an n-gram's id is its place here
    discounted: Floats  # (count - discount) / total count of the context
    free: Floats  # per context (id at the order below): probability mass left for the order below


class KneserNey:
    """Interpolated Kneser–Ney model; build it with ``fit``.

    Probabilities over the V tokens sum to 1 in every context, and every token has one above 0: the unigrams
    are interpolated with the uniform distribution.
    """

    def __init__(
        self,
        levels: Sequence[_Level],
        vocab_size: int,
        end: int | None,
        discounts: Sequence[tuple[float, ...]],
    ) -> None:
        self._levels = tuple(levels)
        self.order = len(levels)
        self.vocab_size = vocab_size
        self.end = end
        self.discounts = tuple(discounts)
        """Per order 1..n: what is taken from counts of 1, 2, and 3 or more."""

    @classmethod
    def fit(
        cls, sequences: Iterable[Sequence[int]], vocab_size: int, *, order: int = 3, end: int | None = 0
    ) -> KneserNey:
        """Estimate a model.

        Args:
            sequences: token ids in [0, vocab_size); one sequence is one line or document.
            vocab_size: V.
            order: n; contexts are n - 1 tokens long.
            end: id that closes every sequence and is predicted like any token (one that is there already is
                not doubled); None if sequences are cut anywhere and their end means nothing.

        Raises:
            InputError: nothing to fit, an id outside the vocabulary, or an impossible order.
        """
        if order < 1:
            raise InputError(f"order: {order} given; an n-gram model needs an order of at least 1")
        if vocab_size < 1 or (end is not None and not 0 <= end < vocab_size):
            raise InputError(
                f"vocab_size: {vocab_size} given with end token {end}; ids run from 0 to vocab_size - 1"
            )
        stream, depth = _flatten(sequences, vocab_size, end)
        if not np.any(depth > 0):
            raise InputError("sequences: no tokens to fit an n-gram model to")
        levels, discounts = _estimate(_count(stream, depth, vocab_size, order), vocab_size)
        return cls(levels, vocab_size, end, discounts)

    def logprobs(self, sequence: Sequence[int]) -> Floats:
        """Return log p of the tokens of one sequence and of its end, in nats: float64 [T + 1]."""
        stream, depth = _flatten([sequence], self.vocab_size, self.end)
        return np.log(self._stream_probabilities(stream, depth))

    def score(self, sequences: Iterable[Sequence[int]]) -> float:
        """Return the mean negative log-likelihood in nats per token, ends included.

        Raises:
            InputError: no tokens, or an id outside the vocabulary.
        """
        stream, depth = _flatten(sequences, self.vocab_size, self.end)
        if not np.any(depth > 0):
            raise InputError("sequences: no tokens to score")
        return float(-np.log(self._stream_probabilities(stream, depth)).mean())

    def token_nll(self, sequences: Iterable[Sequence[int]]) -> list[Floats]:
        """Return the nats of every token of every sequence, ends included; arguments as for `score`."""
        stream, depth = _flatten(sequences, self.vocab_size, self.end)
        values = -np.log(self._stream_probabilities(stream, depth))
        number = np.cumsum(depth == 0) - 1  # of the sequence that a place belongs to
        lengths = np.bincount(number[depth > 0], minlength=int(number[-1]) + 1)
        return np.split(values, np.cumsum(lengths)[:-1])

    def distribution(self, context: Sequence[int] = (), *, begin: bool = True) -> Floats:
        """Return p(token | context) for all tokens: float64 [V].

        Args:
            context: the tokens before; only the last n - 1 matter.
            begin: whether the sequence starts with ``context`` (else something unknown stands before it).
        """
        base = self.vocab_size + 1
        history = [self.vocab_size, *context] if begin else list(context)
        tokens = np.arange(self.vocab_size, dtype=np.int64)
        probabilities = self._unigrams()[tokens]
        for order in range(2, self.order + 1):
            if order - 1 > len(history):
                break
            suffix = history[len(history) - order + 1 :]
            prefix = np.array(suffix[:1], dtype=np.int64)
            for level, token in zip(self._levels[1:], suffix[1:], strict=False):
                prefix = _find(level.keys, np.where(prefix < 0, -1, prefix * base + token))
            probabilities = self._interpolate(order, np.repeat(prefix, len(tokens)), tokens, probabilities)
        return probabilities

    def _stream_probabilities(self, stream: Ids, depth: Ids) -> Floats:
        """Return p of every predicted token of a flat stream, in order."""
        base = self.vocab_size + 1
        events = depth > 0
        ids = stream
        probabilities = self._unigrams()[stream]
        for order in range(2, self.order + 1):
            prefix = np.where(depth >= order - 1, np.roll(ids, 1), -1)
            probabilities = self._interpolate(order, prefix, stream, probabilities)
            ids = _find(self._levels[order - 1].keys, np.where(prefix < 0, -1, prefix * base + stream))
        return probabilities[events]

    def _unigrams(self) -> Floats:
        """Return p of every token without context, [V + 1]; the last, the boundary, never occurs."""
        level = self._levels[0]
        probabilities = np.full(self.vocab_size + 1, level.free[0] / self.vocab_size)
        probabilities[level.keys] += level.discounted
        return probabilities

    def _interpolate(self, order: int, prefix: Ids, tokens: Ids, lower: Floats) -> Floats:
        """Mix one order into the probabilities of the order below; in unknown contexts keep those."""
        level = self._levels[order - 1]
        if not len(level.keys):  # no training sequence was this long
            return lower
        known = prefix >= 0
        place = _find(level.keys, np.where(known, prefix * (self.vocab_size + 1) + tokens, -1))
        seen = np.where(place >= 0, level.discounted[place], 0.0)
        return np.where(known, seen + level.free[prefix] * lower, lower)


def _flatten(sequences: Iterable[Sequence[int]], vocab_size: int, end: int | None) -> tuple[Ids, Ids]:
    """Lay sequences end to end, each after a boundary (id V); return ids and places in the sequence."""
    pieces, lengths = [], []
    boundary, closing = np.array([vocab_size]), np.array([] if end is None else [end], dtype=np.int64)
    for number, sequence in enumerate(sequences):
        row = np.asarray(sequence, dtype=np.int64)
        if row.ndim != 1:
            raise InputError(f"sequences: number {number} has shape {row.shape}; expected one list of ids")
        if row.size and (row.min() < 0 or row.max() >= vocab_size):
            raise InputError(
                f"sequences: number {number} holds ids from {row.min()} to {row.max()}, outside the "
                f"vocabulary of {vocab_size}; were the sequences coded with another tokenizer?"
            )
        if end is not None and row.size and row[-1] == end:
            row = row[:-1]
        pieces += [boundary, row, closing]
        lengths.append(1 + len(row) + len(closing))
    if not lengths:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    stream = np.concatenate(pieces).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    return stream, np.arange(len(stream)) - np.repeat(starts, lengths)


def _find(keys: Ids, wanted: Ids) -> Ids:
    """Return the place of each wanted key in the ascending keys, -1 where it is absent."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


@dataclass(frozen=True)
class _Counts:
    """The different n-grams of one order, as found in the stream; all arrays run over them."""

    keys: Ids  # as in _Level
    prefix: Ids  # id, at the order below, of all but the last token
    suffix: Ids  # id, at the order below, of all but the first token
    times: Ids  # occurrences
    opening: NDArray[np.bool_]  # begins with the boundary, so nothing can stand before it


def _count(stream: Ids, depth: Ids, vocab_size: int, order: int) -> list[_Counts]:
    """Find the n-grams of every order. A unigram's id is its token, a longer one's its place in the keys."""
    base = vocab_size + 1
    below = stream  # per place, the id of the n-gram of the order below that ends there
    tables = []
    for n in range(1, order + 1):
        places = np.flatnonzero(depth >= max(n - 1, 1))  # the boundary itself is context, never counted
        prefix = np.zeros_like(places) if n == 1 else below[places - 1]
        keys, first, inverse, times = np.unique(
            prefix * base + stream[places], return_index=True, return_inverse=True, return_counts=True
        )
        example = places[first]
        tables.append(_Counts(keys, prefix[first], below[example], times, depth[example] == n - 1))
        if n > 1:
            below = np.full_like(stream, -1)
            below[places] = inverse
    return tables


def _estimate(tables: Sequence[_Counts], vocab_size: int) -> tuple[list[_Level], list[tuple[float, ...]]]:
    """Adjust, discount and normalise the counts of every order."""
    levels: list[_Level] = []
    discounts: list[tuple[float, ...]] = []
    contexts = 1  # how many ids the order below has
    for n, table in enumerate(tables, start=1):
        ids = vocab_size + 1 if n == 1 else len(table.keys)
        counts = table.times
        if n < len(tables):
            # Below the highest order, what counts is how many different tokens stand before the n-gram.
            before = np.bincount(tables[n].suffix, minlength=ids)
            counts = np.where(table.opening, counts, before[table.keys] if n == 1 else before)
        taken = _discounts(counts)
        discount = np.array((0.0, *taken))[np.minimum(counts, 3)]
        total = np.bincount(table.prefix, weights=counts, minlength=contexts)
        removed = np.bincount(table.prefix, weights=discount, minlength=contexts)
        # Nothing follows a context that only ever stood last: it leaves everything to the order below.
        free = np.divide(removed, total, out=np.ones_like(removed), where=total > 0)
        levels.append(_Level(table.keys, (counts - discount) / total[table.prefix], free))
        discounts.append(taken)
        contexts = ids
    return levels, discounts


def _discounts(counts: Ids) -> tuple[float, float, float]:
    """Return the discounts of counts 1, 2, 3+ (Chen & Goodman 1999, eq. 26); one for all if data is thin."""
    ones, twos, threes, fours = (int(np.sum(counts == n)) for n in (1, 2, 3, 4))
    if not (ones and twos):
        return (FALLBACK_DISCOUNT,) * 3
    single = ones / (ones + 2 * twos)  # Kneser & Ney 1995
    if threes and fours:
        discounts = (
            1 - 2 * single * twos / ones,
            2 - 3 * single * threes / twos,
            3 - 4 * single * fours / threes,
        )
        if all(0 < value < count for count, value in enumerate(discounts, start=1)):
            return discounts
    return (single,) * 3
