"""The split into train, valid and test: by a hash of the text, so that it depends on nothing else.

Whatever the order of the documents and however many are added later, a document stays where it is, and copies
of one document are never on two sides. A single document (a book) is cut in three, at ends of lines. What has
a source of its own is taken from there as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from edgetext.corpus.config import CorpusConfig
from edgetext.corpus.sources import iter_documents

__all__ = ["SPLITS", "labelled_documents", "split_documents"]

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def labelled_documents(config: CorpusConfig, stdin: Path | None = None) -> Iterator[tuple[Split, str]]:
    """Yields every document of a corpus with its split: of the source, then of those for validation and test.

    `stdin` is where standard input is kept, if that is the source.
    """
    yield from split_documents(iter_documents(config, stdin=stdin), config)
    held_out: tuple[tuple[Split, str | None], ...] = (
        ("valid", config.valid_source),
        ("test", config.test_source),
    )
    for split, source in held_out:
        if source is not None:
            alone = replace(config, source=source, valid_source=None, test_source=None)
            for document in iter_documents(alone):
                yield split, document


def split_documents(documents: Iterable[str], config: CorpusConfig) -> Iterator[tuple[Split, str]]:
    """Yields every document with the split it belongs to, in the order given."""
    remaining = iter(documents)
    first_two = list(islice(remaining, 2))
    if len(first_two) == 1:
        yield from _cut_in_three(first_two[0], config)
        return
    for document in chain(first_two, remaining):
        yield _side(document, config), document


def _fractions(config: CorpusConfig) -> tuple[float, float]:
    """Shares of the source for validation and test; none where a source of its own is given."""
    return (
        config.valid_fraction if config.valid_source is None else 0.0,
        config.test_fraction if config.test_source is None else 0.0,
    )


def _side(document: str, config: CorpusConfig) -> Split:
    valid_fraction, test_fraction = _fractions(config)
    salt = config.split_seed.to_bytes(8, "little")
    digest = hashlib.blake2b(document.encode(), digest_size=8, salt=salt).digest()
    fraction = int.from_bytes(digest, "little") / 2**64
    if fraction < test_fraction:
        return "test"
    return "valid" if fraction < test_fraction + valid_fraction else "train"


def _cut_in_three(document: str, config: CorpusConfig) -> Iterator[tuple[Split, str]]:
    """Yields the parts of one document that are not empty: first train, then valid, then test.

    A part without a share of the document gets none of it, not even the line that a cut falls into.
    """
    size = len(document)
    valid_fraction, test_fraction = _fractions(config)
    cuts = [0]
    for fraction, share in ((1.0, 1 - valid_fraction - test_fraction), (valid_fraction, 1 - test_fraction)):
        if fraction == 0:
            cuts.append(cuts[-1])
            continue
        end = document.find("\n", max(cuts[-1], int(share * size))) if share < 1 else -1
        cuts.append(size if end < 0 else end + 1)
    for split, start, end in zip(SPLITS, cuts, [*cuts[1:], size], strict=True):
        if part := document[start:end].strip("\n"):
            yield split, part
