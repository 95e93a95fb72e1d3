"""BLEU, Self-BLEU, distinct-n and Kneser–Ney against hand-computed cases and slow, literal ones."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from edgetext.evaluate.kneser_ney import FALLBACK_DISCOUNT, KneserNey
from edgetext.evaluate.ngrams import ReferenceSet, bleu, corpus_statistics, distinct, self_bleu
from edgetext_runtime.errors import InputError


def words(text):
    return text.split()


# The example of Papineni et al. 2002: the second candidate matches far less of the references.
REFERENCES = [
    words("it is a guide to action that ensures that the military will forever heed party commands"),
    words("it is the guiding principle which guarantees the military forces always being under command")
    + words("of the party"),
    words("it is the practical guide for the army always to heed the directions of the party"),
]
GOOD = words("it is a guide to action which ensures that the military always obeys the commands of the party")
BAD = words("it is to insure the troops forever hearing the activity guidebook that party direct")


def literal_bleu(hypothesis, references, n):
    """Sentence BLEU-n as the papers state it, with every table built anew."""
    log_precisions = []
    for order in range(1, n + 1):
        grams = [tuple(hypothesis[i : i + order]) for i in range(len(hypothesis) - order + 1)]
        clipped = 0
        for gram in set(grams):
            in_references = max(
                sum(tuple(r[i : i + order]) == gram for i in range(len(r) - order + 1)) for r in references
            )
            clipped += min(grams.count(gram), in_references)
        if order == 1 and clipped == 0:
            return 0.0
        log_precisions.append(math.log((clipped or 0.1) / max(1, len(grams))))
    closest = min((abs(len(r) - len(hypothesis)), len(r)) for r in references)[1]
    penalty = 1.0 if len(hypothesis) > closest else math.exp(1 - closest / len(hypothesis))
    return penalty * math.exp(sum(log_precisions) / n)


def random_sequences(seed, count, vocabulary=6, longest=9):
    rng = np.random.default_rng(seed)
    return [list(map(int, rng.integers(1, vocabulary, rng.integers(1, longest + 1)))) for _ in range(count)]


def test_papineni_example():
    # Unigrams 17/18, bigrams 10/17, trigrams 7/16, 4-grams 4/15 and no penalty (18 words, as the second
    # reference has 17).
    assert bleu([GOOD], REFERENCES, (1,))[1] == pytest.approx(17 / 18)
    assert bleu([GOOD], REFERENCES, (4,))[4] == pytest.approx((17 / 18 * 10 / 17 * 7 / 16 * 4 / 15) ** 0.25)
    assert bleu([BAD], REFERENCES)[2] < bleu([GOOD], REFERENCES)[2]


def test_clipping_and_brevity_penalty():
    # "the" seven times; at most two in one reference: the classic 2/7.
    references = [words("the cat is on the mat"), words("there is a cat on the mat")]
    assert bleu([["the"] * 7], references, (1,))[1] == pytest.approx(2 / 7)
    # Two matching words, closest reference of six: exp(1 - 6/2).
    assert bleu([["the", "cat"]], references, (1,))[1] == pytest.approx(math.exp(1 - 3))


def test_smoothing_and_empty_cases():
    # One match of two unigrams, no bigram: 0.1 / 1 in its place.
    assert bleu([["a", "x"]], [["a", "b"]], (2,))[2] == pytest.approx(math.sqrt(0.5 * 0.1))
    assert bleu([["x", "y"]], [["a", "b"]], (2,)) == {2: 0.0}
    assert bleu([[]], [["a", "b"]], (2,)) == {2: 0.0}
    # A hypothesis shorter than n still has a score: its missing orders count 0.1.
    assert bleu([["a"]], [["a"]], (3,))[3] == pytest.approx((1 * 0.1 * 0.1) ** (1 / 3))


@pytest.mark.parametrize("seed", range(5))
def test_bleu_equals_literal_computation(seed):
    hypotheses, references = random_sequences(seed, 12), random_sequences(100 + seed, 15)
    scores = bleu(hypotheses, references)
    for n, score in scores.items():
        assert score == pytest.approx(np.mean([literal_bleu(h, references, n) for h in hypotheses]))


@pytest.mark.parametrize("seed", range(5))
def test_self_bleu_leaves_exactly_the_hypothesis_out(seed):
    rows = random_sequences(seed, 12)
    rows.append(list(rows[0]))  # a repetition is still a reference of its twin
    for n, score in self_bleu(rows).items():
        literal = [literal_bleu(row, rows[:i] + rows[i + 1 :], n) for i, row in enumerate(rows)]
        assert score == pytest.approx(np.mean(literal))


def test_self_bleu_extremes():
    assert self_bleu([["a", "b", "c"]] * 3, (2,))[2] == pytest.approx(1.0)
    assert self_bleu([["a", "b"], ["c", "d"]], (2,))[2] == 0.0


def test_reference_set_is_reused_and_bounded():
    table = ReferenceSet(REFERENCES, 3)
    assert bleu([GOOD], table, (2, 3)) == bleu([GOOD], REFERENCES, (2, 3))
    with pytest.raises(InputError, match="up to 3"):
        bleu([GOOD], table, (4,))


def test_distinct():
    rows = [["a", "b", "a", "b"], ["a", "b"]]
    assert distinct(rows, (1, 2, 4, 5)) == {1: 2 / 6, 2: 2 / 4, 4: 1.0, 5: 0.0}


def test_corpus_statistics():
    statistics = corpus_statistics([["a", "b"], ["a", "b"], ["a", "a", "a", "a"]])
    assert (statistics.sequences, statistics.unique_sequences, statistics.tokens) == (3, 2, 8)
    assert (statistics.vocabulary, statistics.longest) == (2, 4)
    assert statistics.mean_length == pytest.approx(8 / 3)
    assert statistics.length_deviation == pytest.approx(math.sqrt(8 / 9))
    assert statistics.entropy == pytest.approx(-(6 / 8 * math.log(6 / 8) + 2 / 8 * math.log(2 / 8)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: bleu([], REFERENCES),
        lambda: bleu([GOOD], []),
        lambda: bleu([GOOD], REFERENCES, (0,)),
        lambda: self_bleu([GOOD]),
        lambda: distinct([GOOD], ()),
        lambda: corpus_statistics([]),
    ],
)
def test_impossible_input_is_refused(call):
    with pytest.raises(InputError):
        call()


class LiteralKneserNey:
    """Interpolated Kneser–Ney with dictionaries and recursion, straight from Chen & Goodman 1999."""

    def __init__(self, sequences, vocab_size, order, end):
        self.vocab_size, self.order = vocab_size, order
        closed = [["<s>", *row, *([] if end is None else [end])] for row in sequences]
        raw = [Counter() for _ in range(order + 1)]
        left = [defaultdict(set) for _ in range(order + 1)]
        for row in closed:
            for last in range(1, len(row)):
                for n in range(1, min(order, last + 1) + 1):
                    gram = tuple(row[last - n + 1 : last + 1])
                    raw[n][gram] += 1
                    if last - n >= 0:
                        left[n][gram].add(row[last - n])
        self.counts = [Counter()]
        for n in range(1, order + 1):
            keep = n == order
            self.counts.append(
                Counter({g: c if keep or g[0] == "<s>" else len(left[n][g]) for g, c in raw[n].items()})
            )

    def discount(self, n, count):
        if count == 0:
            return 0.0
        n1, n2, n3, n4 = (sum(c == k for c in self.counts[n].values()) for k in (1, 2, 3, 4))
        if n1 == 0 or n2 == 0:
            return FALLBACK_DISCOUNT
        y = n1 / (n1 + 2 * n2)
        if n3 == 0 or n4 == 0:
            return y
        three = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if not all(0 < d < k for k, d in enumerate(three, start=1)):
            return y
        return three[min(count, 3) - 1]

    def probability(self, context, token):
        if context is None:
            return 1 / self.vocab_size
        n = len(context) + 1
        shorter = context[1:] if context else None
        lower = self.probability(shorter, token)
        following = {g: c for g, c in self.counts[n].items() if g[:-1] == context}
        total = sum(following.values())
        if total == 0:
            return lower
        count = following.get((*context, token), 0)
        free = sum(self.discount(n, c) for c in following.values())
        return (count - self.discount(n, count) + free * lower) / total

    def logprobs(self, row, end):
        row = ["<s>", *row, *([] if end is None else [end])]
        return [
            math.log(self.probability(tuple(row[max(0, i - self.order + 1) : i]), row[i]))
            for i in range(1, len(row))
        ]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("end", [0, None])
def test_kneser_ney_equals_literal_computation(order, end):
    # Zipf-like tokens, so that there are counts of 1, 2, 3, 4 and more; ids 14 and 15 are never seen.
    rng = np.random.default_rng(order)
    weights = 1 / np.arange(1, 14)
    rows = [
        list(map(int, 1 + rng.choice(13, rng.integers(1, 9), p=weights / weights.sum()))) for _ in range(60)
    ]
    model = KneserNey.fit(rows, 16, order=order, end=end)
    literal = LiteralKneserNey(rows, 16, order, end)
    for row in [*rows[:10], [14, 1, 2], [3, 15, 15, 3], [1, 2, 3, 4, 5, 6]]:
        np.testing.assert_allclose(model.logprobs(row), literal.logprobs(row, end), rtol=1e-9)


def test_kneser_ney_by_hand():
    # Bigrams of "1 1 2 <end>": (b 1) (1 1) (1 2) (2 0), once each, so D = 0.75 by fallback at order 2.
    # Unigrams count different left neighbours: 1 has {b, 1}, 2 has {1}, end has {2}: counts 2, 1, 1; n1 = 2,
    # n2 = 1, D = 2 / (2 + 2) = 0.5. Free unigram mass: 3 * 0.5 / 4. V = 4.
    model = KneserNey.fit([[1, 1, 2]], 4, order=2)
    uniform = 1.5 / 4 / 4
    unigram = {0: 0.5 / 4 + uniform, 1: 1.5 / 4 + uniform, 2: 0.5 / 4 + uniform, 3: uniform}
    after_1 = [
        0.75 * unigram[0],
        0.25 / 2 + 0.75 * unigram[1],
        0.25 / 2 + 0.75 * unigram[2],
        0.75 * unigram[3],
    ]
    np.testing.assert_allclose(model.distribution([1]), after_1)
    assert model.discounts == ((0.5,) * 3, (0.75,) * 3)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_distributions_sum_to_one_and_agree_with_logprobs(order):
    rows = random_sequences(3, 40, vocabulary=8)
    model = KneserNey.fit(rows, 10, order=order)
    for context in ([], [1], [2, 3], rows[0], [9, 9], [1, 9], rows[1] + [9, 1]):
        inside = model.distribution(context)
        assert inside.sum() == pytest.approx(1)
        assert inside.min() > 0
        assert model.distribution(context, begin=False).sum() == pytest.approx(1)
        follow = [model.logprobs([*context, token])[len(context)] for token in range(1, 10)]
        np.testing.assert_allclose(np.log(inside[1:]), follow)


def test_score_is_the_token_mean_with_ends():
    rows = random_sequences(5, 20)
    model = KneserNey.fit(rows, 8)
    each = [model.logprobs(row) for row in rows]
    assert [len(values) for values in each] == [len(row) + 1 for row in rows]
    assert model.score(rows) == pytest.approx(-np.concatenate(each).mean())
    assert model.score([[*row, 0] for row in rows]) == pytest.approx(
        model.score(rows)
    )  # an end is not doubled


def test_referee_tells_quality_from_diversity():
    real, held_out = random_sequences(0, 300, 20), random_sequences(1, 100, 20)
    referee = KneserNey.fit(real, 20)
    repetitive = [real[0]] * 100
    assert referee.score(repetitive) < referee.score(held_out)  # likely text …
    assert KneserNey.fit(repetitive, 20).score(held_out) > KneserNey.fit(real[:100], 20).score(
        held_out
    )  # … but poor


@pytest.mark.parametrize(
    ("rows", "arguments"),
    [
        ([], {}),
        ([[1, 2]], {"order": 0}),
        ([[1, 7]], {}),
        ([[-1]], {}),
        ([[1]], {"end": 7}),
        ([[[1, 2]]], {}),
        ([[]], {"end": None}),
    ],
)
def test_kneser_ney_refuses_impossible_input(rows, arguments):
    with pytest.raises(InputError):
        KneserNey.fit(rows, 7, **arguments)
