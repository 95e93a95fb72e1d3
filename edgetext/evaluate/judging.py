"""Every measure of a set of texts: overlap, diversity, referees, feature distances, the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgetext.evaluate.features import Features, frechet_distance, mauve
from edgetext.evaluate.intervals import Estimate, Floats, Items, estimate, items, plain_estimate
from edgetext.evaluate.kneser_ney import KneserNey
from edgetext.evaluate.neural import NeuralReferee
from edgetext.evaluate.ngrams import DEFAULT_ORDERS, ReferenceSet, corpus_statistics, distinct
from edgetext.evaluate.oracle import Oracle, oracle_ids
from edgetext.evaluate.texts import RealText, Text

DISTINCT_ORDERS = (1, 2, 3)


class WordModel(Protocol):
    """A referee: nats of every token of texts given as word ids."""

    def token_nll(self, texts: Sequence[Sequence[int]]) -> Sequence[Floats]:
        """Nats per token, one array per text."""


class Judge:
    """Judges sets of texts against a corpus; everything about the corpus is counted once."""

    def __init__(
        self,
        real: RealText,
        samples: int,
        scored: int,
        *,
        features: Features | None = None,
        neural: bool = False,
        oracle: Oracle | None = None,
    ) -> None:
        """`samples` texts are a set; BLEU and Self-BLEU are means over the first `scored` of them.

        `features` adds Fréchet distance and MAUVE, `neural` the neural referee, `oracle` its likelihood.
        """
        self.real, self.samples, self.scored = real, samples, scored
        self.features, self.neural, self.oracle = features, neural, oracle
        self.references = ReferenceSet([t.words for t in real.test if t.words])
        self.train_ids, self.test_ids = real.ids(real.train), real.ids(real.test)
        self.referee = KneserNey.fit(self.train_ids, real.vocab_size, end=None)
        self.neural_referee = NeuralReferee.fit(self.train_ids, real.vocab_size) if neural else None
        held_out = [t for t in real.test if t.words][:samples]
        self.real_features = None if features is None else features(held_out)

    def people(self) -> list[list[Text]]:
        """Sets of real training texts, the human row: as many as there are whole ones, at most three."""
        train = [t for t in self.real.train if t.words]
        size = min(self.samples, len(train))
        count = max(1, min(3, len(train) // size))
        return [train[i::count][:size] for i in range(count)]

    def judge(self, sets: Sequence[Sequence[Text]], *, people: bool = False) -> dict[str, Estimate]:
        """All measures of a model's sample sets, one per seed; texts without a word are left out.

        `people`: the sets are training texts, so the model of training text cannot judge their quality; the
        held-out texts stand in for them there.
        """
        written = [[t for t in texts if t.words] for texts in sets]
        if not all(len(texts) >= 2 for texts in written):
            return {}
        figures = self._overlap(written)
        figures |= self._referees(written, "", people=people)
        if self.neural:
            figures |= self._referees(written, "neural_", people=people)
        for order in DISTINCT_ORDERS:
            values = [distinct([t.words for t in texts], (order,))[order] for texts in written]
            figures[f"distinct_{order}"] = plain_estimate(values)
        statistics = [corpus_statistics([t.words for t in texts]) for texts in written]
        figures["unique"] = plain_estimate([s.unique_sequences / s.sequences for s in statistics])
        figures["words_per_text"] = plain_estimate([s.mean_length for s in statistics])
        figures["unigram_entropy"] = plain_estimate([s.entropy for s in statistics])
        if self.features is not None and self.real_features is not None:
            vectors = [self.features(texts) for texts in written]
            figures["frechet"] = plain_estimate([frechet_distance(self.real_features, v) for v in vectors])
            figures["mauve"] = plain_estimate([mauve(self.real_features, v) for v in vectors])
        if self.oracle is not None:
            figures |= self._oracle(written)
        return figures

    def score(self, texts: Sequence[Text]) -> tuple[float, float]:
        """Reverse-LM score and LM score of one set: a point of a sweep."""
        written = [t for t in texts if t.words]
        if len(written) < 2:
            return float("inf"), float("inf")
        figures = self._referees([written], "", people=False)
        return figures["reverse_lm_score"].mean, figures["lm_score"].mean

    def _overlap(self, written: Sequence[Sequence[Text]]) -> dict[str, Estimate]:
        """BLEU against all held-out texts, and Self-BLEU against the rest of the set."""
        figures = {}
        top = max(DEFAULT_ORDERS)
        for name in ("bleu", "self_bleu"):
            rows = []
            for texts in written:
                own = ReferenceSet([t.words for t in texts], top) if name == "self_bleu" else None
                scores = [
                    self.references.sentence_bleu(t.words)
                    if own is None
                    else own.sentence_bleu(t.words, leave_out=i)
                    for i, t in enumerate(texts[: self.scored])
                ]
                rows.append(np.array(scores))
            for n in DEFAULT_ORDERS:
                figures[f"{name}_{n}"] = estimate([Items(r[:, n - 1], np.ones(len(r))) for r in rows])
        return figures

    def _referees(
        self, written: Sequence[Sequence[Text]], prefix: str, *, people: bool
    ) -> dict[str, Estimate]:
        """LM score and reverse-LM score, by n-grams or by a neural model."""
        quality: list[Items] = []
        diversity: list[Items] = []
        forward: WordModel = self.neural_referee if prefix and self.neural_referee else self.referee
        for texts in written:
            ids = self.real.ids(texts)
            backward: WordModel
            if prefix:
                backward = NeuralReferee.fit(ids, self.real.vocab_size)
            else:
                backward = KneserNey.fit(ids, self.real.vocab_size, end=None)
            quality.append(items(forward.token_nll(self.test_ids if people else ids)))
            diversity.append(items(backward.token_nll(self.test_ids)))
        return {
            f"{prefix}lm_score": estimate(quality),
            f"{prefix}reverse_lm_score": estimate(diversity),
        }

    def _oracle(self, written: Sequence[Sequence[Text]]) -> dict[str, Estimate]:
        """Nats per token of the texts under the oracle; texts that are too short are counted, not judged."""
        if self.oracle is None:
            return {}
        ids = [oracle_ids([t.words for t in texts], self.oracle.vocab_size) for texts in written]
        shares = [len(part) / len(texts) for part, texts in zip(ids, written, strict=True)]
        figures = {"oracle_judged": plain_estimate(shares)}
        if all(len(part) for part in ids):
            parts = [self.oracle.nll(part).double().numpy() for part in ids]
            figures["oracle_nll"] = estimate([Items(part, np.ones(len(part))) for part in parts])
        return figures
