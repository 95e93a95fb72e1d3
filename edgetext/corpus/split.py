"""The split into train, valid and test: by a hash of the text, so that it depends on nothing else.

Whatever the order of the documents and however many are added later, a document stays where it is, and copies
of one document are never on two sides. A single document (a book) is cut in three, at ends of lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Literal

from edgetext.corpus.config import CorpusConfig

__all__ = ["SPLITS", "split_documents"]

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def split_documents(documents: Iterable[str], config: CorpusConfig) -> Iterator[tuple[Split, str]]:
    """Yields every document with the split it belongs to, in the order given."""
    remaining = iter(documents)
    first_two = list(islice(remaining, 2))
    if len(first_two) == 1:
        yield from _cut_in_three(first_two[0], config)
        return
    for document in chain(first_two, remaining):
        yield _side(document, config), document


def _side(document: str, config: CorpusConfig) -> Split:
    salt = config.split_seed.to_bytes(8, "little")
    digest = hashlib.blake2b(document.encode(), digest_size=8, salt=salt).digest()
    fraction = int.from_bytes(digest, "little") / 2**64
    if fraction < config.test_fraction:
        return "test"
    return "valid" if fraction < config.test_fraction + config.valid_fraction else "train"


def _cut_in_three(document: str, config: CorpusConfig) -> Iterator[tuple[Split, str]]:
    """Yields the parts of one document that are not empty: first train, then valid, then test."""
    size = len(document)
    cuts = [0]
    for share in (1 - config.valid_fraction - config.test_fraction, 1 - config.test_fraction):
        end = document.find("\n", max(cuts[-1], int(share * size)))
        cuts.append(size if end < 0 else end + 1)
    for split, start, end in zip(SPLITS, cuts, [*cuts[1:], size], strict=True):
        if part := document[start:end].strip("\n"):
            yield split, part
