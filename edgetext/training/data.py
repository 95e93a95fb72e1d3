"""Token streams as batches of windows; a batch is a pure function of (seed, step), so resuming is exact."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetext.errors import CorpusError

POOLED_BATCHES = 16
"""Batches whose documents are sorted by length together: longer pools pad less and mix less."""


def open_stream(path: Path) -> NDArray[np.unsignedinteger]:
    """Memory-map a one-dimensional token stream. Raises CorpusError if it is missing or damaged."""
    try:
        stream = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path} is not a token stream: {error}") from error
    if stream.ndim != 1 or stream.dtype.kind != "u":
        raise CorpusError(f"{path} holds {stream.dtype} of shape {stream.shape}; expected one row of ids")
    return stream


class Batch(NamedTuple):
    """Rows of a token stream, one part of a step."""

    tokens: Tensor
    """[B,T+1] int64; inputs are [:, :-1], targets [:, 1:]. Short rows are padded at their end."""
    mask: Tensor
    """[B,T] bool, False where a target is padding."""
    starts: Tensor
    """[B] int64, place of each row's first token in the stream: target t of a row is token start + 1 + t."""
    weight: float
    """Real targets of this part over the mean part's. Mean losses times this average to the step's mean."""
    condition: Tensor | None = None
    """[B,C] float32, 1 for the label of each row's document; None where the corpus has none."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        condition = None if self.condition is None else self.condition.to(device)
        moved = self.tokens.to(device), self.mask.to(device), self.starts.to(device)
        return Batch(*moved, self.weight, condition)


class Window(NamedTuple):
    """Rows of a token stream for evaluation; see `Batch`."""

    tokens: Tensor
    """[B,T+1] int64."""
    mask: Tensor
    """[B,T] bool."""
    condition: Tensor | None = None
    """[B,C] float32."""


class Labels(NamedTuple):
    """Which label every document of a token stream has."""

    bounds: NDArray[np.int64]
    """[D+1]: place of the boundary before every document, then of the last."""
    ids: NDArray[np.unsignedinteger]
    """[D]: number of every document's label."""
    total: int
    """C, how many labels there are."""

    def rows(self, starts: NDArray[np.int64]) -> Tensor:
        """Conditions [B,C] of rows whose first tokens are `starts` [B]."""
        document = np.searchsorted(self.bounds, starts, side="right") - 1
        return torch.eye(self.total)[torch.from_numpy(self.ids[document].astype(np.int64))]


def open_labels(path: Path, stream: NDArray[np.unsignedinteger], count: int, eos_id: int = 0) -> Labels:
    """Read the labels of a stream's documents. Raises CorpusError if they do not fit it."""
    ids = open_stream(path)
    bounds = np.flatnonzero(np.asarray(stream) == eos_id)
    if len(ids) != len(bounds) - 1 or (len(ids) and int(ids.max()) >= count):
        raise CorpusError(f"{path} holds other labels than those of the corpus; prepare the corpus again")
    return Labels(bounds, ids, count)


class Sampler(Protocol):
    """Batches of training rows as a pure function of the step."""

    batch_size: int
    """B, rows per step, over all parts."""
    length: int
    """T, most targets of a row."""
    windows: int
    """Rows in one pass over the stream."""
    tokens_per_step: int
    """Real targets of a step, on average."""
    by_document: bool
    """Whether a row ends with its document."""

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Return the share number `part` of `parts` equal ones of step `step` (from 0)."""


class WindowSampler:
    """Shuffled windows of T + 1 tokens: every epoch a new order and a new offset into the stream."""

    def __init__(self, stream: NDArray[np.unsignedinteger], length: int, batch_size: int, seed: int) -> None:
        self.stream, self.length, self.batch_size, self.seed = stream, length, batch_size, seed
        self.windows = (len(stream) - 1) // length - 1  # one is given up to the epoch's offset
        self.tokens_per_step, self.by_document = batch_size * length, False
        if self.windows < 1:
            raise CorpusError(
                f"the training split has {len(stream)} tokens, too few for windows of {length}; "
                f"use a larger corpus or a smaller --sequence-length"
            )

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Windows of step `step` (from 0); all of them are whole.

        With `parts` > 1 returns the equal share number `part` of the same batch: one process's, or one
        accumulation part's.
        """
        size = self.batch_size // parts
        first = step * self.batch_size + part * size
        rows, starts = [], []
        for index in range(first, first + size):
            epoch, place = divmod(index, self.windows)
            order, offset = self._epoch(epoch)
            start = offset + int(order[place]) * self.length
            starts.append(start)
            rows.append(self.stream[start : start + self.length + 1])
        tokens = torch.from_numpy(np.stack(rows).astype(np.int64))
        return Batch(tokens, torch.ones(size, self.length, dtype=torch.bool), torch.tensor(starts), 1.0)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], int]:
        """Window order and stream offset of one epoch (cached for the epoch in use)."""
        cached = getattr(self, "_cached", None)
        if cached is None or cached[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            offset = int(random.integers(self.length))
            cached = (epoch, random.permutation(self.windows), offset)
            self._cached = cached
        return cached[1], cached[2]


class DocumentSampler:
    """Shuffled documents, one per row: nothing of a neighbour is seen.

    A row begins with the boundary before its document and ends with the one after it; a document of more
    than T targets is cut into rows of T. Batches are made of documents of similar length, so that little of
    them is padding.
    """

    def __init__(
        self,
        stream: NDArray[np.unsignedinteger],
        length: int,
        batch_size: int,
        seed: int,
        labels: Labels | None = None,
    ) -> None:
        self.stream, self.length, self.batch_size, self.seed = stream, length, batch_size, seed
        self.labels = labels
        self.rows = document_rows(stream, length)  # [N,2]: first token, number of targets
        self.windows = len(self.rows)
        self.tokens_per_step, self.by_document = int(batch_size * self.rows[:, 1].mean()), True
        if self.windows < batch_size:
            raise CorpusError(
                f"the training split has {self.windows} documents, fewer than one batch of {batch_size}; "
                f"use a larger corpus, a smaller --batch-size, or --windows stream"
            )

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Documents of step `step` (from 0); with `parts` > 1 every parts-th row of them."""
        epoch, place = divmod(step, self.windows // self.batch_size)
        rows = self.rows[self._epoch(epoch)[place]]  # [B,2]
        mine = rows[part::parts]
        tokens, mask = pad_rows(self.stream, mine)
        weight = float(mine[:, 1].sum()) * parts / float(rows[:, 1].sum())
        condition = None if self.labels is None else self.labels.rows(mine[:, 0])
        return Batch(tokens, mask, torch.from_numpy(mine[:, 0].copy()), weight, condition)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Row numbers [batches,B] of one epoch, similar lengths together (cached for the epoch in use)."""
        cached = getattr(self, "_cached", None)
        if cached is None or cached[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            count = self.windows // self.batch_size
            order = random.permutation(self.windows)[: count * self.batch_size]
            pool = POOLED_BATCHES * self.batch_size
            pools = [order[i : i + pool] for i in range(0, len(order), pool)]
            pools = [part[np.argsort(self.rows[part, 1], kind="stable")] for part in pools]
            batches = np.concatenate(pools).reshape(count, self.batch_size)
            cached = (epoch, batches[random.permutation(count)])
            self._cached = cached
        return cached[1]


def document_rows(stream: NDArray[np.unsignedinteger], length: int, eos_id: int = 0) -> NDArray[np.int64]:
    """Rows [N,2] (first token, number of targets ≤ `length`) that cover every document of a stream.

    A document's first row begins with the `eos_id` before it; its last target is the one after it.
    """
    bounds = np.flatnonzero(np.asarray(stream) == eos_id)
    if len(bounds) < 2:
        bounds = np.array([0, len(stream) - 1])
    firsts, targets = bounds[:-1], np.diff(bounds)
    pieces = -(-targets // length)  # rows per document
    row = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # within its document
    starts = np.repeat(firsts, pieces) + row * length
    sizes = np.minimum(np.repeat(targets, pieces) - row * length, length)
    return np.stack([starts, sizes], axis=1).astype(np.int64)


def evaluation_rows(
    stream: NDArray[np.unsignedinteger], length: int, windows: str = "stream", limit: int | None = None
) -> NDArray[np.int64]:
    """Rows [N,2] (first token, number of targets ≤ `length`) that a split is evaluated on, here and exported.

    Of a ``stream`` consecutive windows: every token but the first is a target once. By ``document`` the rows
    of `document_rows`, each from a fresh state. `limit` caps the number of targets: the last window of a
    stream is cut to it, a document ends after its last row that fits (one row is there at least). Raises
    CorpusError for a stream without a target.
    """
    targets = len(stream) - 1
    if targets < 1:
        raise CorpusError("a split needs at least two tokens to be evaluated; use a larger corpus")
    if windows == "document":
        rows = document_rows(stream, length)
        fitting = len(rows) if limit is None else np.searchsorted(np.cumsum(rows[:, 1]), limit, side="right")
        return rows[: max(1, int(fitting))]
    targets = targets if limit is None else min(max(1, limit), targets)
    starts = np.arange(0, targets, length)
    return np.stack([starts, np.minimum(targets - starts, length)], axis=1)


def pad_rows(
    stream: NDArray[np.unsignedinteger], rows: NDArray[np.int64], pad_id: int = 1, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens [B,T+1] and mask [B,T] of rows [B,2] (first token, number of targets).

    T is `length`, or else the longest of the rows.
    """
    T = int(rows[:, 1].max()) if length is None else length
    place = rows[:, :1] + np.arange(T + 1)  # [B,T+1]
    inside = np.arange(T + 1) <= rows[:, 1:]
    tokens = np.where(inside, np.asarray(stream[np.minimum(place, len(stream) - 1)], np.int64), pad_id)
    return torch.from_numpy(tokens), torch.from_numpy(inside[:, 1:].copy())


def document_windows(
    stream: NDArray[np.unsignedinteger],
    length: int,
    batch_size: int,
    limit: int | None = None,
    labels: Labels | None = None,
) -> list[Window]:
    """Cut a stream into documents for evaluation, each from a fresh state; like `consecutive_windows`.

    A document of more than `length` targets is several rows; `limit` as in `evaluation_rows`.
    """
    rows = evaluation_rows(stream, length, "document", limit)
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [Window(*pad_rows(stream, b), labels.rows(b[:, 0]) if labels else None) for b in batches]


def consecutive_windows(
    stream: NDArray[np.unsignedinteger], length: int, batch_size: int, limit: int | None = None
) -> list[Window]:
    """Cut a stream into consecutive windows for evaluation: every token but the first is a target once.

    T is `length`, the last window being padded; `limit` as in `evaluation_rows`.
    """
    rows = evaluation_rows(stream, length, "stream", limit)
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [Window(*pad_rows(stream, batch, length=length)) for batch in batches]
