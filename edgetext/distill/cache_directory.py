"""A directory to write a cache to: begun, gone on with, replaced or refused."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from edgetext.checkpoint import PARTIAL
from edgetext.distill.cache_format import (
    Manifest,
    Origin,
    check_shard,
    is_cache,
    read_manifest,
    write_manifest,
)
from edgetext.errors import CheckpointError, ConfigError


def claim(directory: Path, wanted: Manifest, *, resume: bool, force: bool) -> Manifest:
    """Make `directory` ready to be written to; returns `wanted` with the files that are there and sound.

    Raises ConfigError if both flags are given; CheckpointError if the directory holds something else, or a
    cache that neither `resume` nor `force` covers, or, to be resumed, one with other settings.
    """
    if resume and force:
        raise ConfigError("--resume goes on with a cache and --force deletes it; give one of them")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise CheckpointError(f"{directory} is not a directory; choose another -o")
    if directory.exists() and any(not _is_partial(path) for path in directory.iterdir()):
        if not is_cache(directory):
            raise CheckpointError(f"{directory} exists and is not a target cache; choose another -o")
        if force:
            shutil.rmtree(directory)
        elif not resume:
            raise CheckpointError(
                f"{directory} exists; continue it with --resume, replace it with --force, or choose another "
                f"-o"
            )
        else:
            return _continue(directory, wanted)
    try:
        write_manifest(directory, wanted)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be written to: {error}; choose another -o") from error
    return wanted


def _continue(directory: Path, wanted: Manifest) -> Manifest:
    """Take over the finished shards of a cache that was interrupted; what is damaged is made again."""
    found = read_manifest(directory)
    wanted = replace(wanted, shard_positions=found.shard_positions)  # the size of files is as it was begun
    for name in (f.name for f in fields(Manifest) if f.name != "files"):
        before, now = getattr(found, name), getattr(wanted, name)
        if isinstance(before, Origin) and isinstance(now, Origin):  # paths may differ
            before, now = before.hashes(), now.hashes()
        if before != now:
            raise CheckpointError(
                f"{directory} was started with another {name} ({_short(before)}, not {_short(now)}); give "
                f"the same options, teachers and run to go on, or start again with --force"
            )
    for path in directory.iterdir():
        if _is_partial(path):  # of a writer that was killed
            path.unlink()
    files: dict[str, str] = {}
    for shard in sorted(set(range(found.shards)) - set(found.missing())):
        try:
            check_shard(directory, found, shard)
        except CheckpointError:
            continue
        files |= {name: found.files[name] for name in found.names(shard)}
    return replace(wanted, files=files)


def _short(value: Any) -> str:
    """A value as it fits in a message; hashes by their first digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    if isinstance(value, tuple):
        return " ".join(_short(part) for part in value) or "none"
    return value[:12] if isinstance(value, str) else str(value)


def _is_partial(path: Path) -> bool:
    """Whether a file is one of ours that never became whole."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)
