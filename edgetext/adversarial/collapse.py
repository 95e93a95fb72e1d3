"""Signs that a generator has collapsed: its texts repeat each other, or use few words."""

from __future__ import annotations

from collections.abc import Sequence

from edgetext.evaluate.ngrams import corpus_statistics, distinct, self_bleu

LOST_SHARE = 0.7
"""Share of the distilled student's distinct bigrams or entropy below which a generator has collapsed."""
SELF_BLEU_RISE = 0.12
"""Rise of Self-BLEU-4 against the distilled student above which it has."""


class Watch:
    """Compares sets of texts with those of the distilled student, drawn with the same seed."""

    def __init__(self, before: Sequence[Sequence[int]]) -> None:
        self._before = signs_of(before)

    def look(self, texts: Sequence[Sequence[int]]) -> tuple[dict[str, float], bool]:
        """Signs of a set of texts, and whether they are those of a collapse."""
        signs, first = signs_of(texts), self._before
        fell = any(signs[name] < LOST_SHARE * first[name] for name in ("distinct_2", "entropy"))
        return signs, fell or signs["self_bleu_4"] > first["self_bleu_4"] + SELF_BLEU_RISE


def signs_of(texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Distinct bigrams, Self-BLEU-4 and entropy of the words; the worst where there are no two texts."""
    written = [text for text in texts if len(text)]
    if len(written) < 2:
        return {"distinct_2": 0.0, "self_bleu_4": 1.0, "entropy": 0.0}
    return {
        "distinct_2": distinct(written, (2,))[2],
        "self_bleu_4": self_bleu(written, (4,))[4],
        "entropy": corpus_statistics(written).entropy,
    }
