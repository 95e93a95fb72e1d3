"""Token streams as batches of windows; a batch is a pure function of (seed, step), so resuming is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetext.errors import CorpusError


def open_stream(path: Path) -> NDArray[np.unsignedinteger]:
    """Memory-map a one-dimensional token stream. Raises CorpusError if it is missing or damaged."""
    try:
        stream = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path} is not a token stream: {error}") from error
    if stream.ndim != 1 or stream.dtype.kind != "u":
        raise CorpusError(f"{path} holds {stream.dtype} of shape {stream.shape}; expected one row of ids")
    return stream


class WindowSampler:
    """Shuffled windows of T + 1 tokens: every epoch a new order and a new offset into the stream."""

    def __init__(self, stream: NDArray[np.unsignedinteger], length: int, batch_size: int, seed: int) -> None:
        self.stream, self.length, self.batch_size, self.seed = stream, length, batch_size, seed
        self.windows = (len(stream) - 1) // length - 1  # one is given up to the epoch's offset
        if self.windows < 1:
            raise CorpusError(
                f"the training split has {len(stream)} tokens, too few for windows of {length}; "
                f"use a larger corpus or a smaller --sequence-length"
            )

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Tensor:
        """Windows of step `step` (from 0): int64 [B,T+1]; inputs are [:, :-1], targets [:, 1:].

        With `parts` > 1 returns the equal share number `part` of the same batch: one process's, or one
        accumulation part's.
        """
        size = self.batch_size // parts
        first = step * self.batch_size + part * size
        rows = []
        for index in range(first, first + size):
            epoch, place = divmod(index, self.windows)
            order, offset = self._epoch(epoch)
            start = offset + int(order[place]) * self.length
            rows.append(self.stream[start : start + self.length + 1])
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], int]:
        """Window order and stream offset of one epoch (cached for the epoch in use)."""
        cached = getattr(self, "_cached", None)
        if cached is None or cached[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            offset = int(random.integers(self.length))
            cached = (epoch, random.permutation(self.windows), offset)
            self._cached = cached
        return cached[1], cached[2]


def consecutive_windows(
    stream: NDArray[np.unsignedinteger], length: int, batch_size: int, limit: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Cut a stream into consecutive windows for evaluation: every token but the first is a target once.

    Returns batches of (tokens [B,T+1] int64, mask [B,T] bool: False where the last window is padded).
    `limit` caps the number of target tokens.
    """
    ids = np.asarray(stream[: None if limit is None else limit + 1], dtype=np.int64)
    targets = len(ids) - 1
    if targets < 1:
        raise CorpusError("a split needs at least two tokens to be evaluated; use a larger corpus")
    count = -(-targets // length)
    padded = np.zeros(count * length + 1, dtype=np.int64)
    padded[: len(ids)] = ids
    tokens = np.stack([padded[i * length : i * length + length + 1] for i in range(count)])
    mask = (np.arange(count * length) < targets).reshape(count, length)
    return [
        (torch.from_numpy(tokens[i : i + batch_size]), torch.from_numpy(mask[i : i + batch_size]))
        for i in range(0, count, batch_size)
    ]
