"""N-gram measures of quality and diversity: BLEU, Self-BLEU, distinct-n, and plain corpus statistics.

All functions take sequences of hashable tokens (ids or strings), hold no state, and never see text. Scores
are in [0, 1]. The definitions are the ones of the text-GAN literature, so that published tables can be set
beside ours:

* BLEU-n is the **mean of sentence BLEU** over the hypotheses, every reference being a reference of each of
  them, with uniform weights over orders 1..n, the brevity penalty of the closest reference length, and
  "method 1" smoothing (a zero count becomes 0.1). Papineni et al. 2002; Chen & Cherry 2014; used so by
  Yu et al. 2017 and Zhu et al. 2018.
* Self-BLEU (Zhu et al. 2018, "Texygen") is the BLEU of each hypothesis against all the *others*. A hypothesis
  is never among its own references; some published code forgets this, which lifts the score.
* distinct-n (Li et al. 2016) is the number of different n-grams over the number of n-grams.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from edgetext_runtime.errors import InputError

Tokens = Sequence[Hashable]
NGram = tuple[Hashable, ...]

SMOOTHING_EPSILON = 0.1
"""What a zero match count is replaced by ("method 1" of Chen & Cherry 2014, with nltk's default)."""

DEFAULT_ORDERS = (2, 3, 4, 5)
"""The orders that text-GAN papers report."""


@dataclass(frozen=True)
class CorpusStatistics:
    """Plain counts over a set of sequences."""

    sequences: int
    """Number of sequences."""
    unique_sequences: int
    """Number of different sequences; the rest are exact repetitions."""
    tokens: int
    """Number of tokens in all sequences."""
    vocabulary: int
    """Number of different tokens that occur."""
    mean_length: float
    """Mean number of tokens per sequence."""
    length_deviation: float
    """Standard deviation of the number of tokens per sequence (population)."""
    longest: int
    """Number of tokens in the longest sequence."""
    entropy: float
    """Entropy of the token frequencies, in nats."""


def corpus_statistics(sequences: Iterable[Tokens]) -> CorpusStatistics:
    """Count sequences, tokens and types.

    Raises:
        InputError: there is no sequence.
    """
    rows = [tuple(sequence) for sequence in sequences]
    if not rows:
        raise InputError("sequences: none given; corpus statistics need at least one sequence")
    lengths = [len(row) for row in rows]
    frequencies = Counter(token for row in rows for token in row)
    total = sum(lengths)
    return CorpusStatistics(
        sequences=len(rows),
        unique_sequences=len(set(rows)),
        tokens=total,
        vocabulary=len(frequencies),
        mean_length=fmean(lengths),
        length_deviation=pstdev(lengths),
        longest=max(lengths),
        entropy=math.fsum(n / total * math.log(total / n) for n in frequencies.values()),
    )


def ngram_counts(sequence: Tokens, order: int) -> Counter[NGram]:
    """Return how often each n-gram of the given order occurs in one sequence."""
    return Counter(zip(*(sequence[start:] for start in range(order)), strict=False))


def distinct(sequences: Iterable[Tokens], orders: Sequence[int] = (1, 2, 3)) -> dict[int, float]:
    """Return distinct-n: different n-grams over all n-grams, pooled over the sequences (Li et al. 2016).

    It falls with the amount of text, so only sets of about the same number of tokens can be compared. An
    order that no sequence is long enough for gives 0.
    """
    orders = _checked_orders(orders)
    rows = list(sequences)
    scores = {}
    for order in orders:
        seen: Counter[NGram] = Counter()
        for row in rows:
            seen.update(ngram_counts(row, order))
        total = seen.total()
        scores[order] = len(seen) / total if total else 0.0
    return scores


class ReferenceSet:
    """The n-gram tables of a set of references, built once and asked many times.

    Clipping needs, per n-gram, the largest count in any single reference. The second largest and the owner of
    the largest are kept as well, so that leaving one reference out (Self-BLEU) is exact and costs nothing.

    Args:
        references: the reference sequences.
        max_order: the highest order that will be asked for.

    Raises:
        InputError: no references, or an order below 1.
    """

    def __init__(self, references: Iterable[Tokens], max_order: int = max(DEFAULT_ORDERS)) -> None:
        self.max_order = max(_checked_orders((max_order,)))
        self._largest: dict[NGram, tuple[int, int]] = {}  # n-gram → (largest count, index of its reference)
        self._second: dict[NGram, int] = {}  # n-gram → largest count among the other references
        lengths: Counter[int] = Counter()
        for index, reference in enumerate(references):
            lengths[len(reference)] += 1
            for order in range(1, self.max_order + 1):
                self._add(ngram_counts(reference, order), index)
        if not lengths:
            raise InputError("references: none given; BLEU needs at least one reference")
        self._length_counts = dict(lengths)
        self._lengths = sorted(lengths)
        self.size = lengths.total()

    def _add(self, counts: Mapping[NGram, int], index: int) -> None:
        largest, second = self._largest, self._second
        for ngram, count in counts.items():
            best = largest.get(ngram)
            if best is None:
                largest[ngram] = (count, index)
            elif count > best[0]:
                largest[ngram] = (count, index)
                second[ngram] = best[0]
            elif count > second.get(ngram, 0):
                second[ngram] = count

    def _limit(self, ngram: NGram, without: int | None) -> int:
        best = self._largest.get(ngram)
        if best is None:
            return 0
        return best[0] if best[1] != without else self._second.get(ngram, 0)

    def closest_length(self, length: int, without: int | None = None) -> int:
        """Return the reference length closest to ``length`` (the shorter on a tie).

        ``without`` is the length of one reference to leave out.
        """
        lengths = self._lengths
        if without is not None and self._length_counts.get(without) == 1:
            lengths = [n for n in lengths if n != without]
        place = bisect_left(lengths, length)
        return min(lengths[max(place - 1, 0) : place + 1], key=lambda n: (abs(n - length), n))

    def sentence_bleu(self, hypothesis: Tokens, leave_out: int | None = None) -> list[float]:
        """Return BLEU-1 … BLEU-max_order of one hypothesis.

        Args:
            hypothesis: the sequence to score.
            leave_out: index of a reference that does not count: the hypothesis itself, for Self-BLEU.

        Returns:
            ``max_order`` scores; all 0 when not one token matches or the hypothesis is empty.
        """
        length = len(hypothesis)
        log_precisions = []
        for order in range(1, self.max_order + 1):
            counts = ngram_counts(hypothesis, order)
            matches = sum(min(count, self._limit(ngram, leave_out)) for ngram, count in counts.items())
            if order == 1 and not matches:
                return [0.0] * self.max_order
            possible = max(length - order + 1, 1)
            log_precisions.append(math.log((matches or SMOOTHING_EPSILON) / possible))
        closest = self.closest_length(length, None if leave_out is None else length)
        log_penalty = min(0.0, 1 - closest / length)
        scores, total = [], 0.0
        for order, log_precision in enumerate(log_precisions, start=1):
            total += log_precision
            scores.append(math.exp(log_penalty + total / order))
        return scores


def bleu(
    hypotheses: Iterable[Tokens],
    references: Iterable[Tokens] | ReferenceSet,
    orders: Sequence[int] = DEFAULT_ORDERS,
) -> dict[int, float]:
    """Return BLEU-n for every order in ``orders``: the mean sentence BLEU of the hypotheses.

    Args:
        hypotheses: generated sequences.
        references: real sequences, each a reference of every hypothesis; or a ``ReferenceSet``, reused.
        orders: which n to report.

    Raises:
        InputError: no hypotheses, no references, or an order that is not available.
    """
    orders = _checked_orders(orders)
    table = references if isinstance(references, ReferenceSet) else ReferenceSet(references, max(orders))
    if max(orders) > table.max_order:
        raise InputError(
            f"orders: {max(orders)} asked for, but the references were counted up to {table.max_order}"
        )
    return _mean_scores([table.sentence_bleu(row) for row in hypotheses], orders)


def self_bleu(hypotheses: Iterable[Tokens], orders: Sequence[int] = DEFAULT_ORDERS) -> dict[int, float]:
    """Return Self-BLEU-n: each hypothesis against all the others (Zhu et al. 2018); lower is more diverse.

    It rises with the number of hypotheses, so only sets of equal size can be compared.

    Raises:
        InputError: fewer than two hypotheses, or an order below 1.
    """
    orders = _checked_orders(orders)
    rows = list(hypotheses)
    if len(rows) < 2:
        raise InputError(f"hypotheses: Self-BLEU needs at least 2 sequences, got {len(rows)}")
    table = ReferenceSet(rows, max(orders))
    return _mean_scores([table.sentence_bleu(row, leave_out=i) for i, row in enumerate(rows)], orders)


def _mean_scores(rows: Sequence[Sequence[float]], orders: Sequence[int]) -> dict[int, float]:
    if not rows:
        raise InputError("hypotheses: none given; BLEU needs at least one hypothesis")
    return {order: fmean(row[order - 1] for row in rows) for order in orders}


def _checked_orders(orders: Sequence[int]) -> tuple[int, ...]:
    if not orders or min(orders) < 1:
        raise InputError(f"orders: {tuple(orders)} given; n-gram orders start at 1")
    return tuple(orders)
