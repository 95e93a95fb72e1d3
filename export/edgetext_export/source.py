"""What an export reads from a run directory, checked before any work is done."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetext.checkpoint import CONFIG_FILE, MODEL_FILE, load_model, model_tensors, read_json
from edgetext.errors import CheckpointError, ConfigError, ExportError
from edgetext.models import ModelConfig
from edgetext_export.quantize import FloatArray
from edgetext_runtime.errors import TokenizerError
from edgetext_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgetext.models.base import GeneratorModel
    from edgetext_export.parity import TokenStream

STUDENT = "student"
TEACHER = "teacher"
_CORPUS_FIELDS = ("source", "sha256", "unit", "documents", "characters", "licence", "python", "splits")


@dataclass(frozen=True)
class Source:
    """A student with everything its bundle needs."""

    name: str
    """Of the run."""
    model: GeneratorModel
    """The student, in evaluation mode on the CPU."""
    tokenizer_json: bytes
    tokenizer: Tokenizer
    stream: TokenStream
    """The test split."""
    corpus: dict[str, Any]
    """corpus.json."""
    provenance: dict[str, Any]
    """Teacher and corpus, as the manifest holds them."""
    windows: str
    """What the run measures on: pieces of the ``stream``, or one ``document`` at a time."""

    def weights(self) -> dict[str, FloatArray]:
        """Return the student's weights as float32 arrays, tied ones once."""
        return {name: tensor.float().numpy() for name, tensor in model_tensors(self.model).items()}


def read_source(run_dir: Path) -> Source:
    """Read the accepted student of a run and check that its parts belong together.

    Raises:
        ExportError: if this is no run directory, or tokenizer, test split and student do not fit each other.
        CheckpointError: if a file is missing, incomplete or does not fit its configuration.
    """
    if not run_dir.is_dir():
        raise ExportError(
            f"{run_dir} is not a directory; give the run directory that `edgetext distill` made"
        )
    student = run_dir / STUDENT
    for path in (student / CONFIG_FILE, student / MODEL_FILE):
        if not path.is_file():
            raise CheckpointError(
                f"{run_dir} has no finished student ({path.relative_to(run_dir)} is missing): run "
                f"`edgetext distill --run {run_dir} --resume`, or give the directory of a finished run"
            )
    try:
        model = load_model(student)
    except ConfigError as error:
        raise CheckpointError(f"{student / CONFIG_FILE}: {error}") from error
    tokenizer_json, tokenizer = _read_tokenizer(run_dir / "tokenizer.json")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ExportError(
            f"{run_dir / 'tokenizer.json'} has {tokenizer.vocab_size} tokens but the student was trained "
            f"with {model.config.vocab_size}: they do not belong together; take both from one run"
        )
    stream = _read_stream(run_dir / "data" / "test.npy", model.config.vocab_size)
    corpus = read_json(run_dir / "corpus.json")
    if not isinstance(corpus, dict):
        raise CheckpointError(f"{run_dir / 'corpus.json'} holds {type(corpus).__name__}, not an object")
    _check_tokenizer(run_dir / "tokenizer.json", tokenizer_json, corpus)
    provenance = {"teacher": _teacher(run_dir), "corpus": _corpus_record(corpus)}
    name = run_dir.resolve().name
    return Source(name, model, tokenizer_json, tokenizer, stream, corpus, provenance, _windows(run_dir))


def _windows(run_dir: Path) -> str:
    """Kind of evaluation windows of a run."""
    path = run_dir / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    return str(config.get("windows", "stream")) if isinstance(config, dict) else "stream"


def _read_tokenizer(path: Path) -> tuple[bytes, Tokenizer]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); is this a finished run?") from error
    try:
        return data, Tokenizer.from_json(data)
    except TokenizerError as error:
        raise ExportError(f"{path}: {error}") from error


def _read_stream(path: Path, vocab_size: int) -> TokenStream:
    try:
        stream: TokenStream = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: it is needed to measure the export; run the distillation"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a token stream: {error}") from error
    if stream.ndim != 1 or stream.dtype.kind != "u" or len(stream) < 2:
        raise CheckpointError(
            f"{path} holds {stream.dtype} of shape {stream.shape}; expected a row of token ids"
        )
    highest = int(stream.max())
    if highest >= vocab_size:
        raise ExportError(
            f"{path} has token id {highest}, the student's vocabulary ends at {vocab_size - 1}: the split "
            f"was coded with another tokenizer; take both from one run"
        )
    return stream


def _teacher(run_dir: Path) -> dict[str, Any]:
    """Shape of the teacher or of the members of an ensemble, if the run kept them."""
    members = [_shape(path / CONFIG_FILE) for path in sorted(run_dir.glob(f"{TEACHER}-*"))]
    known = [member for member in members if member]
    if not known:
        return _shape(run_dir / TEACHER / CONFIG_FILE)
    total = sum(member["parameters"] for member in known)
    return {"architecture": "ensemble", "parameters": total, "members": known}


def _shape(path: Path) -> dict[str, Any]:
    """What is known of one teacher; nothing of one of another make."""
    if not path.is_file():
        return {}
    try:
        config = ModelConfig.from_dict(read_json(path))
    except (CheckpointError, ConfigError, TypeError):
        return {}
    return {"architecture": config.kind, "parameters": config.parameters(), "config": config.to_dict()}


def _corpus_record(corpus: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of the corpus: a file by its name, not by where it lay on the workstation."""
    record = {name: corpus[name] for name in _CORPUS_FIELDS if corpus.get(name) is not None}
    source = record.get("source")
    if isinstance(source, str):
        record["source"] = source.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return record


def _check_tokenizer(path: Path, data: bytes, corpus: dict[str, Any]) -> None:
    """Compare tokenizer.json with the hash that the corpus was coded with, where the run recorded one."""
    record = corpus.get("tokenizer")
    expected = record.get("sha256") if isinstance(record, dict) else None
    if expected is not None and expected != hashlib.sha256(data).hexdigest():
        raise ExportError(
            f"{path} is not the tokenizer that this run's corpus was coded with (its SHA-256 differs from "
            f"the one in corpus.json): put the run's own tokenizer.json back"
        )
