"""Token streams on disk: one-dimensional ``.npy`` files of uint16 or uint32, written piece by piece."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

__all__ = ["TokenWriter"]

_HEADER_BYTES = 128
_BUFFERED = 1 << 16


class TokenWriter:
    """Writes ``<eos> document <eos> document ... <eos>`` to a ``.npy`` file without holding it in memory.

    The file is version 1.0 of numpy's format (numpy/lib/format.py) with a header of fixed size, so that the
    shape can be put in at the end and the bytes do not depend on the version of numpy. Reading:
    ``np.load(path, mmap_mode="r", allow_pickle=False)``.

    Attributes:
        tokens: how many have been written, boundaries included.
    """

    def __init__(self, path: Path, vocab_size: int, eos_id: int) -> None:
        """Opens ``path``; ids below ``vocab_size`` need uint16, or uint32 from 65,537 on."""
        self.tokens = 0
        self._eos = eos_id
        self._type = "H" if vocab_size <= 1 << 16 else "I"
        self._buffer = array(self._type)
        self._file = path.open("wb")
        self._file.write(b"\0" * _HEADER_BYTES)
        self._append([eos_id])

    def write(self, ids: Iterable[int]) -> None:
        """Appends a document, or a part of one."""
        self._append(ids)

    def end_document(self) -> None:
        """Appends the boundary after a document."""
        self._append([self._eos])

    def close(self) -> None:
        """Writes what is left and the header."""
        self._flush()
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()

    def _append(self, ids: Iterable[int]) -> None:
        self._buffer.extend(ids)
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        import numpy as np

        wide = np.frombuffer(self._buffer, dtype=self._type)
        self._file.write(wide.astype(self._dtype()).tobytes())
        self.tokens += len(self._buffer)
        self._buffer = array(self._type)

    def _dtype(self) -> str:
        return "<u2" if self._type == "H" else "<u4"

    def _header(self) -> bytes:
        fields = f"{{'descr': '{self._dtype()}', 'fortran_order': False, 'shape': ({self.tokens},), }}"
        length = _HEADER_BYTES - 10
        start = b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little")
        return start + fields.ljust(length - 1).encode("latin1") + b"\n"
