"""A classifier of labels by words and pairs of words: is a written text what it was asked to be.

Logistic regression on which words and pairs occur, each scaled by its naive-Bayes log-count ratio (Wang &
Manning 2012, "Baselines and Bigrams", §2), one against the rest where there are more than two labels. It
knows nothing of the generators that it judges; how often it is right on held-out documents is to be stated
beside its verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgetext.evaluate.texts import Text

SMOOTHING = 1.0
"""Added to every count."""
PENALTY = 0.0005
"""L2 penalty on the weights beside the mean loss of a document."""
FEWEST = 2
"""Documents that a word or pair must occur in."""
_BEGIN, _END = "<begin>", "<end>"

Feature = tuple[str, ...]


def features(text: Text) -> set[Feature]:
    """Words and pairs of neighbours of a text, its ends among them."""
    words = [_BEGIN, *text.words, *([_END] if text.ended else [])]
    return {(word,) for word in text.words} | set(pairwise(words))


class LabelJudge:
    """Tells the label of a text.

    Attributes:
        labels: the labels, in order.
    """

    def __init__(self, texts: Sequence[Text], labels: Sequence[str]) -> None:
        """Learn from real texts, each with its label; the same texts give the same judge."""
        self.labels = tuple(sorted(set(labels)))
        found = [features(text) for text in texts]
        counts = Counter(feature for own in found for feature in own)
        self._ids = {f: n for n, f in enumerate(sorted(f for f, count in counts.items() if count >= FEWEST))}
        rows = self._rows(found)
        targets = torch.tensor(
            [[label == one for one in self.labels] for label in labels], dtype=torch.float64
        )
        ratios = _ratios(rows, targets, len(self._ids) + 1)
        self._weights = _fit(rows, targets, ratios) * ratios  # [F+1,C]

    def __call__(self, texts: Iterable[Text]) -> NDArray[np.int64]:
        """Number of the likeliest label of every text."""
        rows = self._rows([features(text) for text in texts])
        found: NDArray[np.int64] = rows.sums(self._weights).argmax(1).numpy()
        return found

    def correct(self, texts: Sequence[Text], labels: Sequence[str]) -> NDArray[np.float64]:
        """1 for every text whose label is told, else 0."""
        expected = np.array([self.labels.index(label) for label in labels])
        return (self(texts) == expected).astype(np.float64)

    def _rows(self, found: Sequence[set[Feature]]) -> _Rows:
        """Which features each text has; every text has the last one."""
        known, constant = self._ids, len(self._ids)
        ids = [[*sorted(known[f] for f in own if f in known), constant] for own in found]
        starts = np.cumsum([0, *map(len, ids)])[:-1]
        return _Rows(torch.tensor([i for row in ids for i in row]), torch.from_numpy(starts))


class _Rows(NamedTuple):
    """The features of N texts, one after the other."""

    ids: Tensor
    starts: Tensor
    """[N]: where each text's begin."""

    def sums(self, table: Tensor) -> Tensor:
        """Sum of the rows of a table [F+1,C] for every text, [N,C]."""
        return F.embedding_bag(self.ids, table, self.starts, mode="sum")


def _ratios(rows: _Rows, targets: Tensor, size: int) -> Tensor:
    """Log-count ratios [F+1,C] of every feature: of a label's documents, and of all others."""
    lengths = torch.diff(rows.starts, append=torch.tensor([len(rows.ids)]))
    own = targets.repeat_interleave(lengths, dim=0)  # [ids,C]
    counts = targets.new_full((2, size, targets.shape[1]), SMOOTHING)
    for part, share in zip(counts, (own, 1 - own), strict=True):
        part.index_add_(0, rows.ids, share)
    inside, outside = counts / counts.sum(1, keepdim=True)
    ratios = inside.log() - outside.log()
    ratios[-1] = 1  # the constant
    return ratios


def _fit(rows: _Rows, targets: Tensor, ratios: Tensor) -> Tensor:
    """Weights [F+1,C] of the scaled features, by L-BFGS from zero."""
    weights = torch.zeros_like(ratios, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        scores = rows.sums(weights * ratios)
        value = F.binary_cross_entropy_with_logits(scores, targets, reduction="sum") / len(targets)
        value = value + PENALTY * (weights[:-1] ** 2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.item())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()
