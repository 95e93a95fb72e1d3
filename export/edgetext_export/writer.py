"""Writes a bundle (.etx); `edgetext_runtime.bundle` says what one is, and reads it."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import BinaryIO

from edgetext_runtime.bundle import MANIFEST, MEMBER_LIMITS, Manifest, check_names, check_size, record
from edgetext_runtime.errors import BundleError, InputError

_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_bundle(
    path: str | Path, manifest: Manifest, members: Mapping[str, bytes], force: bool = False
) -> Path:
    """Write a bundle: the same input gives the same bytes, and a reader sees the old file or the new one.

    `members` are all but the manifest, whose own record of them is filled in here.

    Raises:
        InputError: if the file exists and `force` is not set.
        BundleError: if a member is missing, unknown or too large, or the file cannot be written.
    """
    path = Path(path)
    if path.exists() and not force:
        raise InputError(
            f"{path} exists already: choose another path, or replace it with force=True (--force)"
        )
    check_names([MANIFEST, *members], str(path))
    ordered = {name: members[name] for name in MEMBER_LIMITS if name in members}
    records = {name: record(content) for name, content in ordered.items()}
    contents = {MANIFEST: manifest_json(replace(manifest, members=records)), **ordered}
    for name, content in contents.items():
        check_size(name, len(content), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                _write_archive(file, contents)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle {path}: {error}; check the folder and the free space"
        ) from error
    return path


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as deterministic UTF-8 JSON. Raises BundleError if it holds what JSON does not."""
    document = {f.name: getattr(manifest, f.name) for f in fields(manifest)}
    document["state"] = [
        {name: value for name, value in asdict(entry).items() if value or name != "labels"}
        for entry in manifest.state
    ]  # without labels as it was before there were any
    document["members"] = {name: asdict(record) for name, record in manifest.members.items()}
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
        return (text + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:  # among them a lone surrogate
        raise BundleError(f"manifest.json: cannot be written as JSON: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")


def _write_archive(file: BinaryIO, contents: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.create_system = 3  # the same bytes whichever system writes them
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
