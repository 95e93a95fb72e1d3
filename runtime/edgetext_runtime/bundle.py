"""The bundle (.etx): one stored zip, or the same files in a folder, read with nothing taken on trust.

Names, sizes, compression, hashes and the manifest are all checked before anything is handed to ONNX Runtime.
Nothing in a bundle is ever executed or unpickled.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from .archive import list_members
from .errors import BundleError
from .manifest import FORMAT_VERSION, UPGRADE, Manifest, MemberRecord, StateTensor, damaged

if TYPE_CHECKING:  # importing it takes longer than reading a bundle
    from pathlib import Path

__all__ = [
    "FORMAT_VERSION",
    "MEMBER_LIMITS",
    "Bundle",
    "Manifest",
    "MemberRecord",
    "StateTensor",
    "read_bundle",
]

MANIFEST = "manifest.json"
_MIB = 1 << 20
MEMBER_LIMITS: Mapping[str, int] = {
    MANIFEST: _MIB,
    "model.onnx": 2048 * _MIB,
    "tokenizer.json": 64 * _MIB,
    "generation.json": _MIB,
    "quality.json": _MIB,
    "golden.json": 16 * _MIB,
    "CARD.md": _MIB,
    "discriminator.onnx": 512 * _MIB,
}
"""The members of a bundle, in the order they are written, with the most bytes each may have."""
_OPTIONAL = {"discriminator.onnx"}
_ZIP_OVERHEAD = _MIB


class Bundle(NamedTuple):
    """A bundle that has been read and checked.

    Attributes:
        manifest: what the model is.
        members: content of every member but the manifest.
        sha256: hash of the manifest, which has those of all other members: it names the content, whether it
            lies in a file or in a folder.
    """

    manifest: Manifest
    members: Mapping[str, bytes]
    sha256: str


def read_bundle(source: "str | Path | bytes") -> Bundle:
    """Read a bundle and check everything that can be checked without running it.

    Args:
        source: path of an .etx file, path of a folder with its members, or the bytes of an .etx file.

    Raises:
        BundleError: if it is missing, damaged, made by a newer edgetext, or not what its manifest says.
    """
    try:
        if isinstance(source, bytes):
            return _read_archive(source, "these bytes")
        path = os.fspath(source)
        return _read_folder(path) if os.path.isdir(path) else _read_archive(_read_file(path), path)
    except FileNotFoundError as error:
        raise BundleError(
            f"no bundle at {_label(source)}: check the path, or make one with `edgetext export`"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read the bundle {_label(source)}: {error}; check the path") from error


def _read_file(path: str, limit: int = sum(MEMBER_LIMITS.values()) + _ZIP_OVERHEAD) -> bytes:
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise damaged(f"{path}: more than {limit:,} bytes are too large for a bundle")
    return content


def _read_archive(data: bytes, label: str) -> Bundle:
    try:
        entries = list_members(data)
    except ValueError as error:
        raise BundleError(
            f"{label}: truncated, or not a bundle ({error}); download or export it again"
        ) from error
    check_names([entry.name for entry in entries], label)
    for entry in entries:
        if not entry.stored:
            raise damaged(f"{label}: {entry.name} is compressed, members are stored")
        check_size(entry.name, entry.size, label)
    contents = {entry.name: data[entry.start : entry.start + entry.size] for entry in entries}
    return _checked(contents, label)


def _read_folder(folder: str) -> Bundle:
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    check_names(names, folder)
    contents = {name: _read_file(os.path.join(folder, name), MEMBER_LIMITS[name]) for name in names}
    return _checked(contents, folder)


def _checked(contents: dict[str, bytes], label: str) -> Bundle:
    """Compare the content with the manifest: the same members, each with its size and hash."""
    try:
        manifest = Manifest.from_json(document := contents.pop(MANIFEST))
    except BundleError as error:
        raise BundleError(f"{label}: {error}") from error
    if set(manifest.members) != set(contents):
        listed = ", ".join(sorted(manifest.members))
        raise damaged(f"{label}: the manifest lists other members than there are ({listed})")
    for name, content in contents.items():
        if record(content) != manifest.members[name]:
            raise damaged(f"{label}: {name} does not match its size and SHA-256 in the manifest")
    return Bundle(manifest, contents, hashlib.sha256(document).hexdigest())


def record(content: bytes) -> MemberRecord:
    """What the manifest says of a member."""
    return MemberRecord(len(content), hashlib.sha256(content).hexdigest())


def check_names(names: list[str], label: str) -> None:
    """Raise BundleError unless these are the members of a bundle; ``label`` says of which."""
    for name in names:
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise BundleError(f"{label}: member {name!r} points outside the bundle: do not use this file")
        if name not in MEMBER_LIMITS:
            raise BundleError(f"{label}: unknown member {name!r}: not a bundle, or {UPGRADE}")
    if len(set(names)) != len(names):
        raise damaged(f"{label}: a member appears twice")
    if missing := [name for name in MEMBER_LIMITS if name not in names and name not in _OPTIONAL]:
        raise damaged(f"{label}: {', '.join(missing)} missing")


def check_size(name: str, size: int, label: str) -> None:
    """Raise BundleError if a member has more bytes than it may."""
    limit = MEMBER_LIMITS[name]
    if size > limit:
        raise damaged(f"{label}: {name} has {size:,} bytes, the limit is {limit:,}")


def _label(source: "str | Path | bytes") -> str:
    return "from bytes" if isinstance(source, bytes) else str(source)
