"""Offline targets: a teacher's top-k distributions on disk, looked up instead of computed.

`TargetCache` reads a cache and needs no teacher. The bytes are described in `cache_format`, how a teacher
fills them in `cache_writer`, the whole job for a prepared corpus in `cache_targets`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetext.distill.cache_format import (
    TOKENIZER_FILE,
    CacheSettings,
    Manifest,
    Origin,
    is_cache,
    map_shard,
    read_manifest,
)
from edgetext.distill.cache_writer import write_cache
from edgetext.distill.directory import file_sha256, find_teachers
from edgetext.distill.losses import SparseTargets
from edgetext.distill.model_files import model_fingerprint
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.config import ModelConfig
from edgetext.training.data import open_stream

__all__ = [
    "CacheSettings",
    "Origin",
    "TargetCache",
    "is_cache",
    "stream_fingerprint",
    "teacher_fingerprints",
    "write_cache",
]

WRITTEN_STREAM, WRITTEN_DIRECTORY = "written.npy", "written"
"""Text that the teacher wrote, and the cache of its targets, in the directory of a cache."""
MOST_OPEN = 256
"""Most shards that are mapped at once: each takes a file descriptor."""
TAIL_SAMPLE = 100_000
"""Positions from which the mass of the tail is estimated."""


class TargetCache:
    """A complete cache, memory-mapped: only the pages that are looked up are read.

    Attributes:
        directory: where it lies.
        manifest: what it holds.
        written: targets of text that the teacher wrote, if that was cached as well.
    """

    def __init__(self, directory: Path, manifest: Manifest, written: TargetCache | None = None) -> None:
        self.directory, self.manifest, self.written = directory, manifest, written
        self._mapped: OrderedDict[int, list[NDArray[Any]]] = OrderedDict()

    @classmethod
    def open(cls, directory: Path | str) -> TargetCache:
        """Open a cache; sizes and types of all files are checked, not their content: it may be gigabytes.

        Raises CheckpointError when there is no cache, when it is not complete, or when it is damaged; the
        message names the command that mends it.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if missing := manifest.missing():
            raise CheckpointError(
                f"{directory} is not complete: {len(missing)} of {manifest.shards} shards are missing; "
                f"finish it with: {manifest.command(directory, '--resume')}"
            )
        path = directory / TOKENIZER_FILE
        if not path.is_file() or file_sha256(path) != manifest.origin.tokenizer:
            raise CheckpointError(
                f"{path} is missing or damaged; mend the cache with: "
                f"{manifest.command(directory, '--resume')}"
            )
        for shard in range(manifest.shards):
            map_shard(directory, manifest, shard)
        return cls(directory, manifest, _open_written(directory))

    @property
    def top_k(self) -> int:
        """K."""
        return self.manifest.top_k

    @property
    def positions(self) -> int:
        """N, positions that can be looked up."""
        return self.manifest.positions

    @property
    def has_hidden(self) -> bool:
        """Whether hidden states were kept."""
        return bool(self.manifest.hidden)

    @property
    def teacher(self) -> ModelConfig:
        """Shape of the teacher; of an ensemble its first member's."""
        return ModelConfig.from_dict(dict(self.manifest.teacher))

    @property
    def tokenizer(self) -> bytes:
        """The tokenizer.json of the ids."""
        return (self.directory / TOKENIZER_FILE).read_bytes()

    @property
    def fingerprint(self) -> str:
        """Changes with anything that a student learns from the cache."""
        own = self.manifest.fingerprint()
        if self.written is None:
            return own
        return hashlib.sha256(f"{own}/{self.written.fingerprint}".encode()).hexdigest()

    def written_stream(self) -> NDArray[np.unsignedinteger]:
        """The text that the teacher wrote. Raises ConfigError if none was cached."""
        if self.written is None:
            raise ConfigError(
                f"{self.directory} has no text of the teacher's; make it again with: "
                f"{self.manifest.command(self.directory, '--force')} --written-tokens N"
            )
        return open_stream(self.directory / WRITTEN_STREAM)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    def check(
        self,
        *,
        corpus: Path | str,
        tokenizer: str,
        windows: str | None = None,
        run: str | None = None,
    ) -> None:
        """Refuse targets that were made for something else.

        Args:
            corpus: the data/train.npy that is read, or its SHA-256 (`stream_fingerprint`).
            tokenizer: SHA-256 of its tokenizer.json.
            windows: how the student reads the split, "stream" or "document", if that is to agree.
            run: directory of that split, for the command in the message.

        Raises:
            ConfigError: naming what differs and the command that makes the cache anew.
        """
        origin = self.manifest.origin
        split = file_sha256(corpus) if isinstance(corpus, Path) else corpus
        wanted, problem, first = self.manifest, None, ""
        if origin.tokenizer != tokenizer:
            problem = "made with another tokenizer"
        elif origin.corpus != split:
            problem = f"made for the training split of {origin.run}, not for this one"
            first = "give the --corpus and the split of that run, or "
        elif windows is not None and windows != self.manifest.windows:
            problem = (
                f"made with --windows {self.manifest.windows}, but the student reads --windows {windows}"
            )
            wanted = replace(wanted, windows="document" if windows == "document" else "stream")
        if problem is not None:
            raise ConfigError(
                f"the targets in {self.directory} were {problem}; {first}make them again with: "
                f"{wanted.command(self.directory, '--force', run)}"
            )

    def lookup(self, starts: Tensor, T: int) -> SparseTargets:
        """Targets of the tokens start + 1 … start + T of every row (`Batch.starts`), as [B,T,·].

        Positions past the end of the stream, which a padded row has, are zeros. Raises ValueError when a row
        starts outside the cache.
        """
        records = np.zeros((len(starts), T), self.manifest.record)
        self._gather(0, starts, records)
        ids = torch.from_numpy(records["ids"].astype(np.int64))
        return SparseTargets(
            ids,
            torch.from_numpy(records["log_probs"]).float(),
            torch.from_numpy(records["log_tail"]).float(),
            torch.from_numpy(records["tail_ids"].astype(np.int64)),
        )

    def lookup_hidden(self, starts: Tensor, T: int) -> tuple[Tensor, ...]:
        """Hidden states of the same positions: L + 1 tensors [B,T,·] float32, as `Output.hidden`.

        Raises ConfigError when the cache was made without, ValueError as `lookup`.
        """
        if not self.has_hidden:
            raise ConfigError(
                f"{self.directory} has no hidden states; make it again with: "
                f"{replace(self.manifest, hidden=(1,)).command(self.directory, '--force')}"
            )
        states = np.zeros((len(starts), T, sum(self.manifest.hidden)), np.float16)
        self._gather(1, starts, states)
        return torch.split(torch.from_numpy(states).float(), list(self.manifest.hidden), dim=-1)

    def tail_mass(self) -> float:
        """Mean probability outside the top k, over at most `TAIL_SAMPLE` evenly spread positions."""
        stride = -(-self.positions // TAIL_SAMPLE)
        total, count = 0.0, 0
        for shard in range(self.manifest.shards):
            low, _ = self.manifest.span(shard)
            tails = self._shard(shard)[0]["log_tail"][-low % stride :: stride]
            total += float(np.exp(tails.astype(np.float64)).sum())
            count += len(tails)
        return total / count

    def _gather(self, kind: int, starts: Tensor, out: NDArray[Any]) -> None:
        """Copy the records (kind 0) or hidden states (1) of [B,T] positions to `out`, run by run."""
        T = out.shape[1]
        for row, start in enumerate(starts.tolist()):
            if not 0 <= start < self.positions:
                raise ValueError(
                    f"row {row} starts at {start}; the cache has positions 0 to {self.positions - 1}"
                )
            done = 0
            while done < T and start + done < self.positions:
                shard, place = divmod(start + done, self.manifest.shard_positions)
                piece = self._shard(shard)[kind][place : place + T - done]
                out[row, done : done + len(piece)] = piece
                done += len(piece)

    def _shard(self, shard: int) -> list[NDArray[Any]]:
        """A shard's files, mapped; the shard that has waited longest gives way when there are too many."""
        if shard in self._mapped:
            self._mapped.move_to_end(shard)
            return self._mapped[shard]
        arrays = [np.asarray(array) for array in map_shard(self.directory, self.manifest, shard)]
        self._mapped[shard] = arrays
        if len(self._mapped) > MOST_OPEN:
            self._mapped.popitem(last=False)
        return arrays


def _open_written(directory: Path) -> TargetCache | None:
    """Open the targets of a cache's written text, if it has some. Raises CheckpointError."""
    stream = directory / WRITTEN_STREAM
    if not stream.is_file():
        return None
    written = TargetCache.open(directory / WRITTEN_DIRECTORY)
    if written.manifest.origin.corpus != file_sha256(stream):
        raise CheckpointError(
            f"{stream} is not the text that its targets are of; make the cache again with: edgetext "
            f"cache-targets … --force"
        )
    return written


def stream_fingerprint(run: Path) -> str:
    """SHA-256 of the training split of a run or a prepared corpus. Raises CheckpointError without one."""
    path = run / "data" / "train.npy"
    if not path.is_file():
        raise CheckpointError(
            f"{run} has no training split (data/train.npy); give a run of `edgetext distill` as --run"
        )
    return file_sha256(path)


def teacher_fingerprints(path: Path) -> list[str]:
    """`model_fingerprint` of a teacher, or of each of a run's.

    Raises CheckpointError if there is no finished model.
    """
    return [model_fingerprint(place) for place in find_teachers(path)[0]]
