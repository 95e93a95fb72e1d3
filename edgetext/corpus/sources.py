"""From a source named on the command line to its documents, one after another and never all in memory."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgetext.corpus.builtin import python_docs
from edgetext.corpus.config import BUILTIN, CorpusConfig
from edgetext.corpus.labels import with_label
from edgetext.corpus.lines import document_too_long, read_lines
from edgetext.corpus.tables import is_saved_dataset, read_csv, read_jsonl, read_parquet, read_saved_dataset
from edgetext.errors import CorpusError

__all__ = ["SUFFIXES", "iter_documents", "source_kind"]

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")

# Only ASCII, so that the result does not depend on a Unicode version.
_OUTER_BLANK = " \t\n\r\v\f"
_NEWLINES = re.compile(r"\r\n?")


def iter_documents(config: CorpusConfig, *, stdin: Path | None = None) -> Iterator[str]:
    """Yields the documents of a corpus: every line end becomes LF; outer blanks and empty documents go.

    Args:
        config: what to read.
        stdin: a file with what standard input gave, so that the source ``-`` can be read more than once.

    Raises:
        CorpusError: if the source cannot be read; the message names file, line and remedy.
    """
    limit = config.max_document_bytes
    for where, text in _texts(config, stdin):
        document = _NEWLINES.sub("\n", text).strip(_OUTER_BLANK)
        if not document:
            continue
        try:
            size = len(document) if document.isascii() else len(document.encode())
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"{where}: the text holds a lone surrogate (U+{ord(document[error.start]):04X}), which is "
                "not a character; write the file again with the pair of surrogates complete"
            ) from None
        if size > limit:
            raise document_too_long(where, limit)
        yield with_label(document, text)


def source_kind(config: CorpusConfig) -> str:
    """Returns ``builtin``, ``stdin``, ``folder``, ``dataset`` or the ending of the file.

    Raises:
        CorpusError: if there is no such source.
    """
    if config.source.startswith("builtin:"):
        if config.source != BUILTIN:
            raise CorpusError(f"there is no corpus {config.source}; the only one built in is {BUILTIN}")
        return "builtin"
    if config.source == "-":
        return "stdin"
    path = Path(config.source)
    if path.is_dir():
        return "dataset" if is_saved_dataset(path) else "folder"
    if not path.exists():
        raise _missing(path)
    if (kind := _suffix(path)) is None:
        raise CorpusError(
            f"{path}: the ending {path.suffix or '(none)'} is not one of {', '.join(SUFFIXES)}. If it is "
            f"plain text: --corpus - < {path}"
        )
    return kind


def _texts(config: CorpusConfig, stdin: Path | None) -> Iterator[tuple[str, str]]:
    """Yields (where it is, text) for every document as it stands in the source."""
    kind = source_kind(config)
    path = Path(config.source)
    if kind == "stdin":
        yield from _plain_text(stdin, "standard input", config)
    elif kind == "builtin":
        yield from _cut(((BUILTIN, text) for text in python_docs()), config.unit)
    elif kind == "folder":
        for file in _data_files(path):
            yield from _file(file, config)
    elif kind == "dataset":
        yield from _cut(read_saved_dataset(path, config.column, config.label_column), config.unit)
    else:
        yield from _file(path, config)


def _file(path: Path, config: CorpusConfig) -> Iterator[tuple[str, str]]:
    if path.stat().st_size == 0:
        raise CorpusError(f"{path} is empty")
    suffix = (_suffix(path) or "").removesuffix(".gz")
    if suffix == ".txt":
        yield from _plain_text(path, str(path), config)
        return
    if suffix == ".jsonl":
        rows = read_jsonl(path, config.column, config.max_document_bytes, config.label_column)
    elif suffix == ".csv":
        rows = read_csv(path, config.column, config.max_document_bytes, config.label_column)
    else:
        rows = read_parquet(path, config.column, config.label_column)
    yield from _cut(rows, config.unit)


def _plain_text(path: Path | None, name: str, config: CorpusConfig) -> Iterator[tuple[str, str]]:
    """Yields the lines, the paragraphs, or the whole of a text file."""
    limit = config.max_document_bytes
    unit = config.unit or "line"
    block: list[str] = []
    size = 0
    start = 1
    for number, line in read_lines(path, name, limit):
        if unit == "line":
            # A file with the line ends of old Macs has been read as one line.
            yield from ((f"{name}, line {number}", part) for part in line.rstrip("\r\n").split("\r"))
            continue
        if unit == "paragraph" and not line.strip(_OUTER_BLANK):
            yield f"{name}, line {start}", "".join(block)
            block, size = [], 0
            continue
        if not block:
            start = number
        block.append(line)
        size += len(line)  # characters, never more than bytes
        if size > limit:
            raise document_too_long(f"{name}, line {start} to {number}", limit)
    yield f"{name}, line {start}", "".join(block)


def _cut(rows: Iterable[tuple[str, str]], unit: str | None) -> Iterator[tuple[str, str]]:
    """Cuts the texts of rows into lines or paragraphs where that is asked for."""
    for where, text in rows:
        if unit == "line":
            yield from ((where, line) for line in _NEWLINES.sub("\n", text).split("\n"))
        elif unit == "paragraph":
            yield from ((where, block) for block in re.split(r"\n[ \t]*\n", _NEWLINES.sub("\n", text)))
        else:
            yield where, text


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _data_files(folder: Path) -> list[Path]:
    """Returns the data files of a folder, those named train only if there are such.

    Other splits are left alone: what is set aside in a published dataset should not be trained on.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _suffix(path))
    files = [path for path in files if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
    if not files:
        raise CorpusError(
            f"{folder} holds no dataset: neither what Dataset.save_to_disk writes nor files ending in "
            f"{', '.join(SUFFIXES)}"
        )
    train = [path for path in files if any(p.startswith("train") for p in path.relative_to(folder).parts)]
    return train or files


def _missing(path: Path) -> CorpusError:
    parent = path.parent
    if not parent.is_dir():
        return CorpusError(f"{path} does not exist, nor does the folder {parent}")
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() or _suffix(entry))
    similar = difflib.get_close_matches(path.name, names, n=3) or names[:5]
    there = f"; in {parent} there is {', '.join(similar)}" if similar else ""
    return CorpusError(
        f"{path} does not exist{there}. --corpus takes a file ({', '.join(SUFFIXES)}), a dataset directory, "
        f"- or {BUILTIN}; a dataset of the Hugging Face Hub has to be saved first, with Dataset.save_to_disk"
    )
