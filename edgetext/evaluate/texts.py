"""What the referee reads: words of real and of written texts, and the corpus they are judged against.

Generators with other tokenizers must be comparable, so every measure but likelihood is taken over words:
lower-case text, cut by the word tokenizer's own pattern (words with their apostrophes and hyphens, numbers,
single marks). A text is cut to `SAMPLE_LENGTH` words, and says whether it ended by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from edgetext.corpus.config import CorpusConfig
from edgetext.corpus.labels import LabelledText
from edgetext.corpus.split import labelled_documents
from edgetext.errors import ConfigError
from edgetext_runtime.tokenizer_format import WORD_PATTERN

MOST_WORDS = 64
"""Words of a text that are judged; a longer one is cut, real or written."""
END, UNKNOWN = 0, 1
"""Word ids of the end of a text and of words that the training text does not hold."""
_WORDS = re.compile(WORD_PATTERN)


Row = TypeVar("Row")


class Text(NamedTuple):
    """One text as the referee reads it."""

    words: tuple[str, ...]
    ended: bool
    """Whether it is whole: neither cut off by a limit of the sampler nor longer than `MOST_WORDS`."""


def read_text(text: str, ended: bool = True) -> Text:
    """Cut a text into words; lower case, at most `MOST_WORDS`."""
    words = _WORDS.findall(text.lower())
    return Text(tuple(words[:MOST_WORDS]), ended and len(words) <= MOST_WORDS)


@dataclass(frozen=True)
class RealText:
    """The corpus, as far as it is judged against."""

    train: tuple[Text, ...]
    """Training documents."""
    test: tuple[Text, ...]
    """Held-out documents."""
    train_documents: tuple[str, ...]
    """The same, before they were cut into words: what likelihoods read."""
    test_documents: tuple[str, ...]
    vocabulary: dict[str, int]
    """Id of every word of the training documents; ids below 2 are taken."""
    train_labels: tuple[str, ...] = ()
    """Labels of the training documents, with a label column."""
    test_labels: tuple[str, ...] = ()
    """Labels of the held-out documents, likewise."""

    @property
    def vocab_size(self) -> int:
        """Number of word ids."""
        return len(self.vocabulary) + 2

    def ids(self, texts: Iterable[Text]) -> list[list[int]]:
        """Word ids of texts, with `END` after those that ended."""
        known = self.vocabulary
        return [[known.get(w, UNKNOWN) for w in t.words] + [END] * t.ended for t in texts]


def read_corpus(config: CorpusConfig, limit: int | None = None) -> RealText:
    """Read the documents of a corpus; with a test source of its own, all others are training text.

    `limit` caps both, evenly spaced. Raises ConfigError if there is too little, CorpusError as the corpus
    does.
    """
    splits: dict[str, list[str]] = {"train": [], "test": []}
    for split, document in labelled_documents(config):
        if split == "valid" and config.test_source is not None and config.valid_source is None:
            splits["train"].append(document)
        elif split != "valid":
            splits[split].append(document)
    for name in splits:
        if len(splits[name]) < 2:
            raise ConfigError(
                f"{config.source} gives {len(splits[name])} {name} documents, the referee needs at least 2; "
                f"cut it finer with --unit, or give --test-corpus"
            )
    train, test = (tuple(spread(documents, limit)) for documents in splits.values())
    whole = [read_text(document) for document in train]
    counts = Counter(word for text in whole for word in text.words)
    vocabulary = {word: number for number, word in enumerate(sorted(counts), start=2)}
    held_out = tuple(read_text(document) for document in test)
    labels = [
        tuple(text.label for text in texts if isinstance(text, LabelledText)) for texts in (train, test)
    ]
    return RealText(tuple(whole), held_out, train, test, vocabulary, *labels)


def spread(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` rows, evenly spaced."""
    if limit is None or len(rows) <= limit:
        return list(rows)
    return [rows[number * len(rows) // limit] for number in range(limit)]
