"""Writing a cache: a teacher reads a stream once and its top-k distributions go to disk, shard by shard.

Every shard is a pure function of (teacher, stream, settings, its number): a writer that was killed and
resumed leaves the same bytes, on one machine, as one that was not.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgetext.checkpoint import write_atomic
from edgetext.distill.cache_directory import claim
from edgetext.distill.cache_format import (
    TOKENIZER_FILE,
    CacheSettings,
    Manifest,
    Origin,
    record_type,
    write_manifest,
)
from edgetext.distill.top_targets import tail_samples, top_targets
from edgetext.errors import ConfigError, TrainingError
from edgetext.models.base import GeneratorModel, State
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.loop import resolve_precision

CARRIED = 4096
"""Tokens a recurrent state is carried over, its warm-up included; such pieces are read side by side."""
WARM_UP = 256
"""Tokens a recurrent teacher reads before the first position of a piece that counts."""
LOGITS_PER_FORWARD = 1 << 25
"""Most logits of one forward pass (128 MB in float32)."""
TOKENS_PER_FORWARD = 8192
"""Most tokens of one forward pass."""
MOST_ROWS, CARRIED_ROWS = 512, 64
"""Most rows of one forward pass, and rows that carry a state side by side."""
LOWEST = -1e4
"""Floor of stored log-probabilities: keeps them finite in float16."""
LARGEST_HALF = float(np.finfo(np.float16).max)


class Row(NamedTuple):
    """Tokens read in one go: `start` to `stop` - 1 of the stream; positions from `first` on are kept."""

    start: int
    first: int
    stop: int


def write_cache(
    teacher: GeneratorModel,
    stream: NDArray[np.unsignedinteger],
    directory: Path,
    settings: CacheSettings,
    *,
    origin: Origin,
    tokenizer: bytes,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Manifest:
    """Write the teacher's targets for every position of `stream` to `directory`; returns the manifest.

    The teacher works on the device it is on; `tokenizer` is the tokenizer.json of its ids. `progress` gets
    the positions done and their number, at the start and after every batch of rows. Raises ConfigError when
    the settings do not fit the teacher or the disk, CheckpointError when the directory is refused (see
    `claim`), TrainingError when the teacher's logits are not finite.
    """
    teacher.eval()
    wanted = _manifest(teacher, stream, settings, origin)
    if not directory.exists():
        _check_space(directory, wanted)
    manifest = claim(directory, wanted, resume=resume, force=force)
    _check_space(directory, manifest)
    write_atomic(directory / TOKENIZER_FILE, tokenizer)
    bounds = segment_bounds(stream, settings)
    missing = manifest.missing()
    left = sum(high - low for low, high in map(manifest.span, missing))
    done = manifest.positions - left
    progress(done, manifest.positions)
    for shard in missing:
        low, high = manifest.span(shard)
        records = np.zeros(high - low, manifest.record)
        hidden = np.zeros((high - low, sum(manifest.hidden)), np.float16)
        for rows, chunk in row_batches(plan_rows(low, high, bounds, manifest.context), manifest):
            _read(teacher, stream, rows, chunk, manifest.precision, low, records, hidden)
            done += sum(row.stop - row.first for row in rows)
            progress(done, manifest.positions)
        files = dict(manifest.files)
        for name, array in zip(manifest.names(shard), (records, hidden), strict=False):
            files[name] = _write_array(directory / name, array)
        manifest = replace(manifest, files=files)
        write_manifest(directory, manifest)
    return manifest


def _manifest(
    teacher: GeneratorModel,
    stream: NDArray[np.unsignedinteger],
    settings: CacheSettings,
    origin: Origin,
) -> Manifest:
    """What the finished cache will say, apart from its files."""
    vocab_size = teacher.config.vocab_size
    if settings.top_k > vocab_size:
        raise ConfigError(
            f"--top-k is {settings.top_k}, but there are only {vocab_size} token ids; use at most "
            f"--top-k {vocab_size}"
        )
    if len(stream) < 2:
        raise ConfigError("the training split has fewer than two tokens; there is nothing to predict")
    device = next(teacher.parameters()).device
    precision = "bf16" if resolve_precision(settings.precision, device) == "bf16" else "fp32"
    hidden: tuple[int, ...] = ()
    if settings.hidden:
        with torch.no_grad():
            hidden = tuple(
                h.shape[-1] for h in teacher(torch.zeros(1, 1, dtype=torch.int64, device=device)).hidden
            )
        if not hidden:
            raise ConfigError(
                "this teacher shows no hidden states (an ensemble has none); leave --hidden out"
            )
    samples = tail_samples(settings, vocab_size)
    size = record_type(settings.top_k, samples, vocab_size).itemsize + 2 * sum(hidden)
    return Manifest(
        origin=origin,
        teacher=teacher.config.to_dict(),
        vocab_size=vocab_size,
        positions=len(stream) - 1,
        top_k=settings.top_k,
        tail_samples=samples,
        windows=settings.windows,
        context=_context(teacher, settings.context),
        precision=precision,
        hidden=hidden,
        shard_positions=max(1, int(settings.shard_mb * 1e6) // size),
    )


def _context(teacher: GeneratorModel, asked: int | None) -> int:
    """Tokens of a window; 0 where a recurrent state is carried instead."""
    members = teacher.members() if isinstance(teacher, EnsembleGenerator) else [teacher]
    limits = [member.config.context for member in members if member.config.context]
    if not limits:
        return asked or 0
    if asked is not None and asked > min(limits):
        raise ConfigError(
            f"--context is {asked}, but the teacher attends to at most {min(limits)} tokens; use at most "
            f"--context {min(limits)}"
        )
    return asked or min(limits)


def _check_space(directory: Path, manifest: Manifest) -> None:
    """Refuse to begin what the disk cannot hold."""
    positions = sum(high - low for low, high in map(manifest.span, manifest.missing()))
    place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    needed, free = positions * manifest.bytes_per_position(), shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"the cache needs {needed / 1e9:.2f} GB, but {directory} has {free / 1e9:.2f} GB free; use a "
            f"smaller --top-k or --tail-samples, leave --hidden out, or choose another -o"
        )


def segment_bounds(
    stream: NDArray[np.unsignedinteger], settings: CacheSettings, eos_id: int = 0
) -> NDArray[np.int64]:
    """Where the context starts afresh: the stream's first token, or every `eos_id`; then the stream's end."""
    ends = np.array([0, len(stream) - 1], dtype=np.int64)
    if settings.windows == "stream":
        return ends
    inner = np.flatnonzero(np.asarray(stream[1:-1]) == eos_id) + 1
    return np.concatenate([ends[:1], inner, ends[1:]])


def plan_rows(low: int, high: int, bounds: NDArray[np.int64], context: int) -> list[Row]:
    """Rows that keep every position of [low, high) once, none reading across a bound before it.

    A row reads at most `context` tokens and begins half of them before the first position it keeps, or at the
    bound before it where all from there on fits. With context 0 (a carried state) it is `CARRIED` and
    `WARM_UP` tokens.
    """
    length, overlap = (context, context // 2) if context else (CARRIED, WARM_UP)
    segment = int(np.searchsorted(bounds, low, side="right")) - 1
    rows = []
    first = low
    while first < high:
        left, right = int(bounds[segment]), min(int(bounds[segment + 1]), high)
        while first < right:
            start = left if right - left <= length else max(left, first - overlap)
            stop = min(right, start + length)
            rows.append(Row(start, first, stop))
            first = stop
        segment += 1
    return rows


def row_batches(rows: Sequence[Row], manifest: Manifest) -> Iterator[tuple[list[Row], int]]:
    """Rows of similar length together, and how many of their tokens one forward pass takes."""
    budget = max(1, min(TOKENS_PER_FORWARD, LOGITS_PER_FORWARD // manifest.vocab_size))
    order = sorted(rows, key=lambda row: row.start - row.stop)  # longest first; ties in the stream's order
    done = 0
    while done < len(order):
        longest = order[done].stop - order[done].start
        fewest = 1 if manifest.context else CARRIED_ROWS
        batch = order[done : done + min(max(fewest, budget // longest), MOST_ROWS)]
        yield batch, longest if manifest.context else min(longest, max(budget // len(batch), 16))
        done += len(batch)


@torch.no_grad()
def _read(
    teacher: GeneratorModel,
    stream: NDArray[np.unsignedinteger],
    rows: Sequence[Row],
    chunk: int,
    precision: str,
    low: int,
    records: NDArray[Any],
    hidden: NDArray[np.float16],
) -> None:
    """Let the teacher read some rows; put what is kept into `records` and `hidden`, which begin at `low`."""
    device = next(teacher.parameters()).device
    bounds = np.array(rows, dtype=np.int64)  # [B,3]
    T = int((bounds[:, 2] - bounds[:, 0]).max())
    place = bounds[:, :1] + np.arange(T)  # [B,T]
    kept = (place >= bounds[:, 1:2]) & (place < bounds[:, 2:])
    ids = np.asarray(stream[np.minimum(place, len(stream) - 1)], np.int64)  # past a row's end: not kept
    tokens = torch.from_numpy(ids).to(device)
    state: State | None = None
    for begin in range(0, T, chunk):
        part = slice(begin, begin + chunk)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = teacher(tokens[:, part], state)
        state = output.state
        where = place[:, part][kept[:, part]] - low  # [N]
        if len(where) == 0:
            continue
        mask = torch.from_numpy(kept[:, part]).to(device)
        K, S = records["ids"].shape[1], records["tail_ids"].shape[1]
        positions = torch.from_numpy(where + low)
        top, log_probs, log_tail, drawn = top_targets(output.logits[mask], K, S, positions)
        if not bool(torch.isfinite(log_probs[:, 0]).all()):
            raise TrainingError(
                f"the teacher's logits are not finite near token {low + int(where[0])}; try --precision fp32"
            )
        records["ids"][where] = top.cpu().numpy()
        records["log_probs"][where] = log_probs.clamp_min(LOWEST).half().cpu().numpy()
        records["log_tail"][where] = log_tail.clamp_min(LOWEST).half().cpu().numpy()
        records["tail_ids"][where] = drawn.cpu().numpy()
        if hidden.shape[1]:
            layers = torch.cat([layer[mask].float() for layer in output.hidden], dim=-1)
            hidden[where] = layers.clamp(-LARGEST_HALF, LARGEST_HALF).half().cpu().numpy()


def _write_array(path: Path, array: NDArray[Any]) -> str:
    """Write a .npy file atomically; returns its SHA-256."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()
