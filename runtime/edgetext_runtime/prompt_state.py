"""A prompt that has been paid for: the model's state after it, to be continued any number of times.

The file format, version 1, little endian throughout: the magic ``edgetext-state``, a byte with the version,
the length of the header as uint32, the header (JSON: hash of the bundle, all tokens, length of the state),
the logits after the prompt (float32 [V]), the tensors of the state in the order of the manifest, and the
SHA-256 of all that. Every size follows from the manifest and the header. The hash shows damage; it does not
prove origin.
"""

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .engine import StateArrays
from .errors import BundleError, InputError
from .manifest import STATE_DTYPES, Manifest, is_count, parse_json_object
from .sampling import AnyArray, FloatArray

if TYPE_CHECKING:
    from .generator import Generator

_MAGIC = b"edgetext-state"
_VERSION = 1
_DIGEST = 32
_HEAD = struct.Struct("<14sBI")
_MOST_HEADER = 1 << 28


@dataclass(frozen=True, eq=False)
class PromptState:
    """The state of a model after a prompt; made by ``Generator.prefill``.

    Nothing changes it: a generation copies what it needs, so threads may share it. It belongs to one bundle.

    Attributes:
        bundle: SHA-256 of the bundle.
        tokens: all ids of the prompt, start token first.
        length: how many of them the model remembers, the last ones; fewer where the context was too short.
        arrays: the model's state.
        logits: of the next token, float32 [V].
    """

    bundle: str
    tokens: tuple[int, ...]
    length: int
    arrays: StateArrays
    logits: FloatArray

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        for array in (*self.arrays, self.logits):
            array.setflags(write=False)

    def fork(self) -> "PromptState":
        """A state to continue on its own; it shares the memory, as nothing changes either."""
        return replace(self)

    def to_bytes(self) -> bytes:
        """The state as a file that `from_bytes` reads on any machine that has the bundle."""
        header = json.dumps({"bundle": self.bundle, "length": self.length, "tokens": self.tokens}).encode()
        arrays = (self.logits, *self.arrays)
        parts = [_HEAD.pack(_MAGIC, _VERSION, len(header)), header]
        parts += [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays]
        content = b"".join(parts)
        return content + hashlib.sha256(content).digest()

    @classmethod
    def from_bytes(cls, data: bytes, generator: "Generator") -> "PromptState":
        """Read a state.

        Args:
            data: what `to_bytes` gave.
            generator: of the same bundle.

        Raises:
            InputError: if it is damaged, of another version, or of another bundle.
        """
        manifest = generator.manifest
        header, body = _open(data)
        if header.get("bundle") != generator.bundle.sha256:
            raise _refusal("belongs to another bundle: prefill the prompt again")
        tokens, length = _read_tokens(header, manifest)
        shapes: list[tuple[tuple[int, ...], str]] = [((manifest.vocab_size,), "float32")]
        shapes += [(entry.concrete_shape(1, length), entry.dtype) for entry in manifest.state]
        if len(body) != sum(math.prod(shape) * STATE_DTYPES[dtype] for shape, dtype in shapes):
            raise _refusal("does not have the size its header implies")
        logits, *arrays = _split(body, shapes)
        return cls(generator.bundle.sha256, tuple(tokens), length, tuple(arrays), logits)


def _refusal(what: str) -> InputError:
    return InputError(f"data {what}; allowed are the bytes of PromptState.to_bytes")


def _open(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Check magic, version and hash; return the header and what follows it."""
    if not isinstance(data, bytes) or len(data) < _HEAD.size + _DIGEST or not data.startswith(_MAGIC):
        raise _refusal("is not a prompt state")
    _, version, size = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise _refusal(f"has version {version}, this reader knows {_VERSION}: prefill the prompt again")
    content = memoryview(data)[:-_DIGEST]
    if hashlib.sha256(content).digest() != data[-_DIGEST:]:
        raise _refusal("is damaged: its checksum is another")
    if size > min(_MOST_HEADER, len(content) - _HEAD.size):
        raise _refusal("has a header longer than itself")
    end = _HEAD.size + size
    try:
        return parse_json_object(bytes(content[_HEAD.size : end]), "its header"), content[end:]
    except BundleError as error:
        raise _refusal(f"has no valid header ({error})") from error


def _read_tokens(header: dict[str, Any], manifest: Manifest) -> tuple[list[int], int]:
    tokens, length = header.get("tokens"), header.get("length")
    if not isinstance(tokens, list) or not all(is_count(t) and t < manifest.vocab_size for t in tokens):
        raise _refusal(f"has tokens that are not ids below {manifest.vocab_size}")
    most = min(len(tokens), manifest.context_length or len(tokens))
    if not isinstance(length, int) or not is_count(length, 1) or length > most:
        raise _refusal(f"has a length of {length!r}, not 1 to {most}")
    return tokens, length


def _split(body: memoryview, shapes: Sequence[tuple[tuple[int, ...], str]]) -> list[AnyArray]:
    arrays, at = [], 0
    for shape, name in shapes:
        dtype = np.dtype(name)
        count = math.prod(shape)
        stored = np.frombuffer(body, dtype.newbyteorder("<"), count, at)
        arrays.append(stored.reshape(shape).astype(dtype))
        at += count * dtype.itemsize
    return arrays
