"""Lines of text files, decoded strictly: every problem is reported with file, line and remedy."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from edgetext.errors import CorpusError

__all__ = ["document_too_long", "read_lines"]

_BOM = b"\xef\xbb\xbf"
# First bytes of what is often taken for text, and what to do about it.
_SIGNATURES = (
    (b"\x1f\x8b", "it is compressed with gzip: give the name the ending .gz"),
    (b"\xff\xfe", "it looks like UTF-16: iconv -f utf-16 -t utf-8 FILE > FILE.txt"),
    (b"\xfe\xff", "it looks like UTF-16: iconv -f utf-16 -t utf-8 FILE > FILE.txt"),
    (b"PK\x03\x04", "it is a zip archive (or an office document): unpack it, or save it as plain text"),
    (b"%PDF", "it is a PDF: pdftotext FILE FILE.txt"),
    (b"PAR1", "it is a Parquet file: give the name the ending .parquet"),
    (b"BZh", "it is compressed with bzip2: bunzip2 it first"),
    (b"\xfd7zXZ", "it is compressed with xz: unxz it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unzstd it first"),
)


def read_lines(path: Path | None, name: str, limit: int) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line with its line end) of a file in UTF-8.

    Args:
        path: the file, decompressed on the way if it ends in .gz; None for standard input.
        name: what error messages call it.
        limit: longest line in bytes.

    Raises:
        CorpusError: if the file cannot be read or decompressed, holds NUL bytes, is not UTF-8, or has a
            longer line.
    """
    offset = 0
    with _opened(path, name) as file:
        number = 0
        while raw := file.readline(limit + 2):
            number += 1
            if len(raw) > limit and not raw.endswith(b"\n"):
                raise document_too_long(f"{name}, line {number}", limit)
            if number == 1:
                if raw.startswith(_BOM):
                    raw = raw[len(_BOM) :]
                    offset += len(_BOM)
                if hint := _signature(raw):
                    raise CorpusError(f"{name} is not a text file: {hint.replace('FILE', name)}")
            if b"\0" in raw:
                at = offset + raw.index(b"\0")
                raise CorpusError(
                    f"{name}, line {number}: a NUL byte at offset {at}, so this is a binary file. A corpus "
                    "is text in UTF-8 (.txt, .jsonl, .csv) or a table (.parquet)"
                )
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{name}, line {number}: byte 0x{raw[error.start]:02x} at offset {offset + error.start} "
                    f"is not UTF-8. If the text is Latin-1: iconv -f latin1 -t utf8 {name} > utf8.txt"
                ) from None
            offset += len(raw)
            yield number, line


def document_too_long(where: str, limit: int) -> CorpusError:
    """Returns the error for one document longer than ``limit`` bytes."""
    return CorpusError(
        f"{where}: one document is longer than {limit / (1 << 20):g} MB. Cut the text with --unit paragraph "
        "or --unit line, or allow more with --max-document-mb"
    )


def _signature(head: bytes) -> str:
    return next((hint for magic, hint in _SIGNATURES if head.startswith(magic)), "")


@contextmanager
def _opened(path: Path | None, name: str) -> Iterator[BinaryIO]:
    """Opens a file, compressed or not; errors of reading, also those that come later, are CorpusErrors."""
    try:
        if path is None:
            yield sys.stdin.buffer
        elif path.suffix == ".gz":
            with gzip.open(path) as packed:
                yield cast(BinaryIO, packed)
        else:
            with path.open("rb") as plain:
                yield plain
    except gzip.BadGzipFile as error:
        raise CorpusError(
            f"{name} is not a gzip file ({error}); if it is plain text, remove the ending .gz"
        ) from None
    except (EOFError, zlib.error) as error:
        raise CorpusError(f"{name} is damaged or cut off ({error}); copy or download it again") from None
    except OSError as error:
        raise CorpusError(f"{name} cannot be read: {error.strerror or error}") from None
