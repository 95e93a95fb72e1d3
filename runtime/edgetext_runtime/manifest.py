"""The manifest of a bundle: what the model is, what state it carries, and what the other members hash to.

A `Manifest` that exists is valid: every field is checked when it is built, whether it comes from a
file or from an exporter. All problems are `errors.BundleError`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import BundleError

FORMAT_VERSION = 1
ARCHITECTURES = ("lstm", "gru", "transformer")
PRECISIONS = ("int8", "int4", "fp16", "fp32")
STATE_KINDS = ("recurrent", "kv_cache", "condition")
STATE_DTYPES = {"float32": 4, "float16": 2}
"""Element types a state tensor may have, with their size in bytes."""
MAX_STATE_BYTES = 1 << 31
"""Upper limit for the state of one sequence: a hostile manifest must not be able to exhaust the memory."""

REEXPORT = "the bundle is damaged or not from edgetext: download or export it again"
UPGRADE = "made by a newer edgetext: pip install -U edgetext-runtime"
_HEXADECIMAL = set("0123456789abcdef")


def parse_json_object(data: bytes | str, member: str) -> dict[str, Any]:
    """Parse a JSON object strictly: UTF-8, no NaN or Infinity, no key twice.

    Args:
        data: the member's content.
        member: its name, for the error message.

    Raises:
        BundleError: if it is not one JSON object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key appears twice in one object")
        return result

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        parsed = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise damaged(f"{member}: not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise damaged(f"{member}: must hold a JSON object, not {type(parsed).__name__}")
    return parsed


def damaged(what: str) -> BundleError:
    """The error for a bundle that is not as edgetext writes it."""
    return BundleError(f"{what}; {REEXPORT}")


def is_count(value: object, minimum: int = 0) -> bool:
    """Whether a value is an integer (``bool`` does not count) of at least ``minimum``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _require(ok: bool, where: str, rule: str) -> None:
    if not ok:
        raise damaged(f"manifest.json: {where} {rule}")


@dataclass(frozen=True)
class StateTensor:
    """One tensor the graph carries from call to call; the initial value is all zeros, or what is asked for.

    Attributes:
        input: name of the graph input that takes the past value.
        output: name of the graph output that gives the present value; empty for a condition.
        shape: a positive size or a name per axis: ``"batch"`` first, ``"context"`` once in a KV cache.
        dtype: a key of `STATE_DTYPES`.
        kind: ``"recurrent"`` (replaced at every call), ``"kv_cache"`` (written in place: past and present
            are bound to one buffer of capacity ``context_length``) or ``"condition"`` (given once).
        labels: of the input ``condition.label`` [batch, C] the names of its C columns.
    """

    input: str
    output: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    kind: str = "recurrent"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check names, axes, element type, kind and labels."""
        kept, labels = self.kind == "condition", self.labels
        for name in (self.input, *(() if kept else (self.output,))):
            _require(isinstance(name, str) and name != "", "state", f"has an invalid tensor name {name!r}")
        where = f"state {self.input!r}"
        dtypes = list(STATE_DTYPES)
        _require(self.dtype in dtypes, where, f"has dtype {self.dtype!r}, not one of {dtypes}")
        _require(self.kind in STATE_KINDS, where, f"has kind {self.kind!r}, not one of {STATE_KINDS}")
        valid = isinstance(self.shape, tuple) and all(
            isinstance(a, str) or is_count(a, 1) for a in self.shape
        )
        _require(valid and self.shape[:1] == ("batch",), where, f"has an invalid shape {self.shape!r}")
        names = [axis for axis in self.shape[1:] if isinstance(axis, str)]
        expected = ["context"] if self.kind == "kv_cache" else []
        _require(names == expected, where, f"names the axes {names!r} after 'batch', not {expected!r}")
        valid = all(isinstance(label, str) and label for label in labels) and kept == bool(labels)
        if valid and kept:
            found = (self.input, self.output, self.shape)
            valid = found == ("condition.label", "", ("batch", len(set(labels)))) and len(set(labels)) == len(
                labels
            )
        _require(valid, where, f"is no condition with the labels {labels!r}")

    def concrete_shape(self, batch: int, context: int | None) -> tuple[int, ...]:
        """The shape in numbers, for ``batch`` sequences and a cache of ``context`` tokens."""
        sizes: dict[str, int] = {"batch": batch, "context": context or 0}
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.shape)


@dataclass(frozen=True)
class MemberRecord:
    """What a member must be: its ``size`` in bytes and its ``sha256`` in hexadecimal."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        """Check both fields."""
        _require(is_count(self.size), "members", f"has a size of {self.size!r}")
        valid = isinstance(self.sha256, str) and len(self.sha256) == 64 and set(self.sha256) <= _HEXADECIMAL
        _require(valid, "members", f"has an invalid sha256 {self.sha256!r}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a reader must know before it touches the model.

    Attributes:
        format_version: version of the bundle layout; readers refuse what they do not know.
        name: the model's name, for people.
        created_by: program and version that wrote the bundle.
        architecture: one of ``ARCHITECTURES``.
        config: the model's configuration, as the training side wrote it.
        precision: of the weights, one of ``PRECISIONS``.
        quantisation: ``"recipe"`` and its parameters.
        parameters: number of parameters of the unquantised model.
        vocab_size: V, the tokenizer's and the graph's.
        context_length: most tokens the model can see (prompt and generated); ``None`` is unlimited.
        special_tokens: ids of ``eos``, ``pad`` and ``unk`` (``None`` where there is none).
        opset: ONNX opset of the graph.
        ort_floor: the oldest onnxruntime that runs the graph, such as ``"1.23"``.
        state: the tensors carried from call to call, in the order of the graph's inputs.
        provenance: where the model comes from (``teacher``, ``corpus``, …).
        licence: licence of the model.
        members: size and hash of every other member; filled in by ``write_bundle``.
    """

    format_version: int = FORMAT_VERSION
    name: str
    created_by: str
    architecture: str
    config: Mapping[str, Any]
    precision: str
    quantisation: Mapping[str, Any]
    parameters: int
    vocab_size: int
    context_length: int | None
    special_tokens: Mapping[str, int | None]
    opset: int
    ort_floor: str
    state: tuple[StateTensor, ...]
    provenance: Mapping[str, Any]
    licence: str
    members: Mapping[str, MemberRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field, alone and against the others."""
        check_version(self.format_version)
        for name in ("name", "created_by", "licence", "ort_floor"):
            value = getattr(self, name)
            _require(isinstance(value, str) and value.strip() != "", name, f"must be a text, not {value!r}")
        for name in ("config", "quantisation", "special_tokens", "provenance", "members"):
            _require(isinstance(getattr(self, name), Mapping), name, "must be an object")
        for name in ("parameters", "vocab_size", "opset"):
            value = getattr(self, name)
            _require(is_count(value, 1), name, f"must be a positive integer, not {value!r}")
        architecture, precision = self.architecture, self.precision
        _require(architecture in ARCHITECTURES, "architecture", f"{architecture!r} is not in {ARCHITECTURES}")
        _require(precision in PRECISIONS, "precision", f"{precision!r} is not in {PRECISIONS}")
        _require(isinstance(self.quantisation.get("recipe"), str), "quantisation", "must name its recipe")
        numbers = self.ort_floor.split(".")
        valid = len(numbers) in (2, 3) and all(n.isascii() and n.isdigit() and len(n) < 10 for n in numbers)
        _require(valid, "ort_floor", f"{self.ort_floor!r} is no version")
        self._check_special_tokens()
        self._check_state()

    def _check_special_tokens(self) -> None:
        special = self.special_tokens
        _require(set(special) == {"eos", "pad", "unk"}, "special_tokens", "must give eos, pad and unk")
        for name, value in special.items():
            valid = (is_count(value) and value is not None and value < self.vocab_size) or (
                value is None and name == "unk"
            )
            _require(valid, f"special token {name!r}", f"is {value!r}, not an id below {self.vocab_size}")

    def _check_state(self) -> None:
        context = self.context_length
        _require(context is None or is_count(context, 1), "context_length", f"is {context!r}, not a length")
        _require(
            isinstance(self.state, tuple) and len(self.state) > 0, "state", "must list at least one tensor"
        )
        _require(
            context is not None or not self.has_cache, "context_length", "is null but there is a KV cache"
        )
        for side in ("input", "output"):
            names = [name for entry in self.state if (name := getattr(entry, side))]
            _require(len(set(names)) == len(names), "state", f"names an {side} twice")
        size = sum(math.prod(s.concrete_shape(1, context)) * STATE_DTYPES[s.dtype] for s in self.state)
        _require(size <= MAX_STATE_BYTES, "state", f"takes more than {MAX_STATE_BYTES:,} bytes")

    @property
    def has_cache(self) -> bool:
        """Whether the state holds KV caches (then the graph also takes ``past_length``)."""
        return any(entry.kind == "kv_cache" for entry in self.state)

    @property
    def labels(self) -> tuple[str, ...]:
        """What a text can be asked to be; empty where the model is not conditioned."""
        return next((entry.labels for entry in self.state if entry.labels), ())

    @property
    def eos_id(self) -> int:
        """The id that ends a document and begins every prompt."""
        return int(self.special_tokens["eos"] or 0)

    @classmethod
    def from_json(cls, data: bytes | str) -> "Manifest":
        """Read and check a manifest.

        Raises:
            BundleError: if it is not JSON, of a newer format, or has a missing, unknown or invalid field.
        """
        document = parse_json_object(data, "manifest.json")
        check_version(document.get("format_version"))
        document = _known_fields(cls, document, "the manifest")
        _require(isinstance(document["state"], list), "state", "must be a list")
        _require(isinstance(document["members"], dict), "members", "must be an object")
        state = tuple(_state_tensor(entry) for entry in document["state"])
        members = {
            name: MemberRecord(**_known_fields(MemberRecord, record, f"member {name!r}"))
            for name, record in document["members"].items()
        }
        return cls(**{**document, "state": state, "members": members})


def check_version(version: object) -> None:
    """Refuse a format version this reader does not know.

    Raises:
        BundleError: with the command that upgrades the runtime where the bundle is newer.
    """
    if is_count(version, FORMAT_VERSION + 1):
        raise BundleError(f"manifest.json: format_version {version} is unknown, {UPGRADE}")
    _require(is_count(version, 1), "format_version", f"is {version!r}, not a known version")


def _known_fields(cls: type[Any], document: object, where: str) -> dict[str, Any]:
    """The document, once it is sure that it has exactly the fields of the dataclass ``cls``."""
    if not isinstance(document, dict):
        raise damaged(f"manifest.json: {where} must be an object, not {document!r}")
    expected = {f.name for f in fields(cls)}
    if missing := sorted(expected - set(document)):
        raise damaged(f"manifest.json: {where} has no {', '.join(missing)}")
    if unknown := sorted(set(document) - expected):
        raise BundleError(
            f"manifest.json: {where} has unknown fields {', '.join(unknown)}: perhaps {UPGRADE}"
        )
    return document


def _state_tensor(entry: object) -> StateTensor:
    given = {"labels": [], **entry} if isinstance(entry, dict) else entry
    known = _known_fields(StateTensor, given, "a state entry")
    valid = isinstance(known["shape"], list) and isinstance(known["labels"], list)
    _require(valid, f"state {known['input']!r}", "must have lists as its shape and labels")
    return StateTensor(**{**known, "shape": tuple(known["shape"]), "labels": tuple(known["labels"])})
