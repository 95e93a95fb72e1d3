"""What a cache of teacher targets is on disk: its settings, its manifest and its shards.

    DIR/manifest.json          settings, origin, and the SHA-256 of every finished file
    DIR/tokenizer.json         what the ids mean
    DIR/targets-00000.npy      one record per position: ids [K], log_probs [K] float16, log_tail float16,
                               and tail_ids [S], drawn from what lies outside the K
    DIR/hidden-00000.npy       only with hidden states: [positions, sum of the layers' widths] float16

Record i is the teacher's distribution of token i + 1 of the stream, given what precedes it. A shard holds the
next `shard_positions` records and is named in the manifest once it is whole on disk, so a writer that is
killed leaves a cache that can be gone on with. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgetext.checkpoint import read_json, write_json
from edgetext.distill.directory import file_sha256
from edgetext.errors import CheckpointError, ConfigError
from edgetext.training.settings import Precision

FORMAT = "edgetext-targets"
FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
WindowKind = Literal["stream", "document"]


@dataclass(frozen=True)
class CacheSettings:
    """What is asked of a teacher, and how it is stored."""

    top_k: int = 32
    """K, tokens kept at every position."""
    tail_samples: int | None = None
    """S, tokens drawn at every position from all but the K; each stands for an equal part of their mass.
    None: as many as fit in 300 bytes, 80 at most. None are drawn where the K leave at most one token."""
    hidden: bool = False
    """Whether every layer's output is kept as well (float16)."""
    windows: WindowKind = "stream"
    """``stream``: neighbouring documents are context too; ``document``: each starts afresh at its <eos>."""
    context: int | None = None
    """C, most tokens the teacher reads at once, in windows that overlap by half. None: a Transformer's whole
    context; a recurrent teacher carries its state."""
    precision: Precision = "auto"
    """Arithmetic of the teacher's forward pass."""
    shard_mb: float = 64.0
    """Size of a shard in megabytes (10⁶ bytes); a killed writer loses at most one."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.top_k < 1:
            raise ConfigError(f"--top-k is {self.top_k}; it must be at least 1")
        if self.tail_samples is not None and self.tail_samples < 0:
            raise ConfigError(f"--tail-samples is {self.tail_samples}; it must be at least 0")
        if self.windows not in get_args(WindowKind):
            raise ConfigError(f"--windows is {self.windows!r}; it must be stream or document")
        if self.context is not None and self.context < 2:
            raise ConfigError(f"--context is {self.context}; it must be at least 2")
        if not self.shard_mb > 0:
            raise ConfigError(f"--shard-mb is {self.shard_mb}; it must be positive")


@dataclass(frozen=True)
class Origin:
    """What a cache was made from. Paths are as they were given and only shown; the hashes decide."""

    run: str
    """Directory of the prepared corpus."""
    corpus: str
    """SHA-256 of its data/train.npy."""
    tokenizer: str
    """SHA-256 of its tokenizer.json."""
    teachers: tuple[str, ...]
    """Where the teachers were."""
    weights: tuple[str, ...]
    """Fingerprint of every model in them (`teacher_fingerprints`), in the same order."""

    def hashes(self) -> dict[str, Any]:
        """What decides: everything but the paths."""
        return {"corpus": self.corpus, "tokenizer": self.tokenizer, "weights": self.weights}


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says."""

    origin: Origin
    teacher: Mapping[str, Any]
    """Shape of the teacher (`ModelConfig.to_dict`); of an ensemble its first member's."""
    vocab_size: int
    """V of the teacher and of the ids."""
    positions: int
    """N, records in all: one less than the stream's tokens."""
    top_k: int
    """K."""
    tail_samples: int
    """S."""
    windows: WindowKind
    context: int
    """C of `CacheSettings.context`; 0 where a recurrent state was carried."""
    precision: str
    """``fp32`` or ``bf16``: what the teacher computed in."""
    hidden: tuple[int, ...]
    """Widths of the embedding output and of every layer's; empty without hidden states."""
    shard_positions: int
    """Records of every shard but the last."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File name → SHA-256 of every finished file."""

    def fingerprint(self) -> str:
        """SHA-256 over all but paths: it changes with anything that a student learns from the cache."""
        values = {**self.to_dict(), "origin": self.origin.hashes()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def shards(self) -> int:
        """Number of shards when complete."""
        return -(-self.positions // self.shard_positions)

    @property
    def record(self) -> np.dtype[Any]:
        """One position of a targets file."""
        return record_type(self.top_k, self.tail_samples, self.vocab_size)

    def span(self, shard: int) -> tuple[int, int]:
        """First position of a shard, and the one after its last."""
        low = shard * self.shard_positions
        return low, min(low + self.shard_positions, self.positions)

    def names(self, shard: int) -> list[str]:
        """Return the file names of a shard."""
        return [f"{kind}-{shard:05}.npy" for kind in (("targets", "hidden") if self.hidden else ("targets",))]

    def missing(self) -> list[int]:
        """Shards that are not finished."""
        return [shard for shard in range(self.shards) if not set(self.names(shard)) <= set(self.files)]

    def teacher_record(self) -> dict[str, Any]:
        """What a bundle states of the teacher: its shape; of several the first one's, and their number."""
        shape = {"architecture": self.teacher.get("kind"), "config": dict(self.teacher)}
        drawn = f" and {self.tail_samples} drawn from the rest" if self.tail_samples else ""
        targets = {"targets": f"cached, the {self.top_k} likeliest tokens{drawn}"}
        count = len(self.origin.weights)
        if count < 2:
            return {**shape, **targets}
        return {"architecture": "ensemble", "models": count, "first": shape, **targets}

    def bytes_per_position(self) -> int:
        """Bytes of one record with its hidden states."""
        return self.record.itemsize + 2 * sum(self.hidden)

    def command(self, directory: Path, flag: str, run: str | None = None) -> str:
        """Return the command line that makes this cache, ending in `flag` (--resume or --force)."""
        words = ["edgetext", "cache-targets", *self.origin.teachers, "--run", run or self.origin.run]
        words += ["-o", str(directory), "--top-k", str(self.top_k), "--tail-samples", str(self.tail_samples)]
        words += ["--windows", self.windows, "--precision", self.precision]
        words += ["--context", str(self.context)] if self.context else []
        words += ["--hidden"] if self.hidden else []
        return shlex.join([*words, flag])

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to manifest.json."""
        values = {**asdict(self), "files": dict(sorted(self.files.items()))}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **values}

    @classmethod
    def from_dict(cls, values: Any, where: Path) -> Manifest:
        """Read what `to_dict` returned. Raises CheckpointError naming `where`."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(f"{where} is not the manifest of a target cache")
        if values.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{where} has format version {values.get('format_version')}, but this edgetext reads "
                f"{FORMAT_VERSION}; make the cache again with: edgetext cache-targets … --force"
            )
        try:
            given = {f.name: values[f.name] for f in fields(cls)}
            origin = given["origin"]
            given["origin"] = Origin(
                **{**origin, "teachers": tuple(origin["teachers"]), "weights": tuple(origin["weights"])}
            )
            given["hidden"] = tuple(int(width) for width in given["hidden"])
            manifest = cls(**given)
            sizes = (manifest.positions, manifest.shard_positions, manifest.top_k, manifest.vocab_size)
            if min(sizes) < 1 or manifest.tail_samples < 0:
                raise ValueError("a size is not positive")
            if not isinstance(manifest.files, dict) or not isinstance(manifest.teacher, dict):
                raise TypeError("files or teacher is not a table")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{where} is damaged ({error}); make the cache again with: edgetext cache-targets … --force"
            ) from error
        return manifest


def record_type(top_k: int, tail_samples: int, vocab_size: int) -> np.dtype[Any]:
    """Record of one position: 4·K + 2·S + 2 bytes, or 6·K + 4·S + 2 from 65,537 token ids on."""
    ids = "<u2" if vocab_size <= 1 << 16 else "<u4"
    likeliest = [("ids", ids, (top_k,)), ("log_probs", "<f2", (top_k,))]
    return np.dtype([*likeliest, ("log_tail", "<f2"), ("tail_ids", ids, (tail_samples,))])


def is_cache(directory: Path) -> bool:
    """Whether a directory was made by `edgetext cache-targets`."""
    path = directory / MANIFEST_FILE
    if not path.is_file():
        return False
    values = read_json(path)
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a cache, complete or not. Raises CheckpointError."""
    path = directory / MANIFEST_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is not a target cache (it has no {MANIFEST_FILE}); make one with: "
            f"edgetext cache-targets TEACHER --run RUN -o {directory}"
        )
    return Manifest.from_dict(read_json(path), path)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    write_json(directory / MANIFEST_FILE, manifest.to_dict())


def map_shard(directory: Path, manifest: Manifest, shard: int) -> list[NDArray[Any]]:
    """Memory-map the files of a shard: records [P], and hidden states [P,W] if there are any.

    Raises CheckpointError if a file is missing, cut short or of another shape.
    """
    low, high = manifest.span(shard)
    kinds = [(manifest.record, (high - low,)), (np.dtype("<f2"), (high - low, sum(manifest.hidden)))]
    arrays: list[NDArray[Any]] = []
    for name, (kind, shape) in zip(manifest.names(shard), kinds, strict=False):
        path = directory / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(_damaged(path, str(error), directory, manifest)) from error
        if array.dtype != kind or array.shape != shape:
            found = f"it holds {array.dtype} of shape {array.shape}"
            raise CheckpointError(_damaged(path, found, directory, manifest))
        arrays.append(array)
    return arrays


def _damaged(path: Path, what: str, directory: Path, manifest: Manifest) -> str:
    return f"{path} is damaged: {what}; mend the cache with: {manifest.command(directory, '--resume')}"


def check_shard(directory: Path, manifest: Manifest, shard: int) -> None:
    """Read the files of a shard and compare their hashes. Raises CheckpointError."""
    map_shard(directory, manifest, shard)
    for name in manifest.names(shard):
        if file_sha256(directory / name) != manifest.files.get(name):
            path = directory / name
            raise CheckpointError(_damaged(path, "its SHA-256 is not the manifest's", directory, manifest))
