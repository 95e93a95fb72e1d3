"""Which text to train on, and how it is cut and split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgetext.errors import ConfigError

__all__ = ["BUILTIN", "CorpusConfig", "Unit"]

BUILTIN = "builtin:python-docs"
Unit = Literal["line", "paragraph", "document"]
_UNITS = ("line", "paragraph", "document")


@dataclass(frozen=True)
class CorpusConfig:
    """Which text to train on, and how it is cut into documents and split.

    Attributes:
        source: a file (.txt, .jsonl, .csv, each also with .gz, or .parquet), a Hugging Face dataset
            directory, a folder of such files, ``-`` for text on standard input, or ``builtin:python-docs``.
        column: the column or key that holds the text, for everything but plain text. Default: ``text`` if
            there is one, otherwise the only column of strings.
        unit: what one document is: a ``line``, a ``paragraph`` (up to a blank line) or a ``document`` (a
            whole file of plain text, a whole row of a table). Default: lines of plain text, rows of all else.
        valid_fraction: share of the documents kept for validation.
        test_fraction: share of the documents kept for the test.
        valid_source: a source of its own for validation; `source` is then not split for it.
        test_source: a source of its own for the test; `source` is then not split for it.
        split_seed: changes which documents these are.
        max_document_mb: a document longer than this (2**20 bytes of UTF-8) is an error.
        label_column: the column or key with the label of every row, to condition a generator on.
    """

    source: str = BUILTIN
    column: str | None = None
    unit: Unit | None = None
    valid_fraction: float = 0.05
    test_fraction: float = 0.05
    split_seed: int = 0
    max_document_mb: float = 64.0
    valid_source: str | None = None
    test_source: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ConfigError("--corpus is empty; give a file, a directory, '-' or builtin:python-docs")
        for flag, source in (("--valid-corpus", self.valid_source), ("--test-corpus", self.test_source)):
            if source is not None and source.strip() in ("", "-", self.source):
                raise ConfigError(
                    f"{flag} is {source!r}; give a file or directory other than --corpus and standard input"
                )
        if self.unit is not None and self.unit not in _UNITS:
            raise ConfigError(f"unknown unit {self.unit!r}; use --unit {', '.join(_UNITS)}")
        if self.label_column is not None and self.unit in ("line", "paragraph"):
            raise ConfigError(f"--label-column labels whole rows; leave out --unit {self.unit}")
        if self.label_column is not None and self.label_column == self.column:
            raise ConfigError("--label-column and --column name the same column; the text is another")
        for flag, fraction in (
            ("--valid-fraction", self.valid_fraction),
            ("--test-fraction", self.test_fraction),
        ):
            if not 0.0 < fraction < 0.5:
                raise ConfigError(f"{flag} is {fraction}; it has to lie between 0 and 0.5")
        if not 0 <= self.split_seed < 2**64:
            raise ConfigError(f"--split-seed is {self.split_seed}; it has to lie between 0 and 2**64 - 1")
        if not self.max_document_mb > 0:
            raise ConfigError(f"--max-document-mb is {self.max_document_mb}; it has to be positive")

    @property
    def max_document_bytes(self) -> int:
        """The limit in bytes of UTF-8."""
        return int(self.max_document_mb * (1 << 20))
