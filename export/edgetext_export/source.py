"""What an export reads from a run directory, checked before any work is done."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetext.checkpoint import CONFIG_FILE, MODEL_FILE, load_model, model_tensors, read_json
from edgetext.distill.cache_format import read_manifest
from edgetext.distill.directory import file_sha256
from edgetext.errors import CheckpointError, ConfigError, ExportError
from edgetext.models import ModelConfig
from edgetext_export.decoder import Decoder
from edgetext_export.quantize import FloatArray
from edgetext_runtime.errors import TokenizerError
from edgetext_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgetext.models.base import GeneratorModel
    from edgetext.training.data import Labels
    from edgetext_export.parity import TokenStream
    from edgetext_export.traced import Traced

STUDENT = "student"
TEACHER = "teacher"
RESULT_FILE = "result.json"
_CORPUS_FIELDS = ("source", "sha256", "unit", "documents", "characters", "licence", "python", "splits")
_HUGGINGFACE_NAMES = {
    "vocab_size": ("vocab_size",),
    "hidden": ("hidden_size", "n_embd"),
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "context": ("max_position_embeddings", "n_positions"),
}
"""What a manifest says of a Hugging Face teacher, and the names it has in config.json."""


@dataclass(frozen=True)
class Source:
    """A model with everything its bundle needs."""

    name: str
    """Of the run or model directory."""
    model: GeneratorModel
    """The torch model that the export is compared with, in evaluation mode on the CPU."""
    config: ModelConfig | Decoder | Traced
    """Shape of the graph."""
    weights: Mapping[str, FloatArray]
    """float32, tied ones once."""
    tokenizer_json: bytes
    tokenizer: Tokenizer
    stream: TokenStream
    """The test split."""
    licence: str
    """Of the corpus, or of a model from elsewhere."""
    provenance: dict[str, Any]
    """Teacher and corpus, as the manifest holds them."""
    windows: str
    """What the run measures on: pieces of the ``stream``, or one ``document`` at a time."""
    suppressed: tuple[int, ...]
    """Ids that the graph never samples."""
    labels: Labels | None
    """Of the test split's documents, where the model is conditioned on one."""
    calibration: Callable[[], TokenStream]
    """Reads text to measure ranges and moments on: not the test split."""
    trained_in_int8: bool = False
    """Whether its training ended in the arithmetic of an int8 bundle."""


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
    config = _object(run_dir / CONFIG_FILE)
    return Source(
        name=run_dir.resolve().name,
        model=model,
        config=model.config,
        weights={name: tensor.float().numpy() for name, tensor in model_tensors(model).items()},
        tokenizer_json=tokenizer_json,
        tokenizer=tokenizer,
        stream=stream,
        licence=str(corpus.get("licence") or "not stated"),
        provenance=provenance,
        windows=str(config.get("windows", "stream")),
        suppressed=tokenizer.suppressed,
        labels=_labels(run_dir, stream, len(model.config.labels)),
        calibration=lambda: _read_stream(run_dir / "data" / "valid.npy", model.config.vocab_size),
        trained_in_int8=bool(config.get("quantized_steps")),
    )


def _labels(run_dir: Path, stream: TokenStream, count: int) -> Labels | None:
    """Labels of the test split's documents, of a model that has `count`."""
    from edgetext.training.data import open_labels

    return open_labels(run_dir / "data" / "test.labels.npy", stream, count) if count else None


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
    """What is known of the teacher: a model, an ensemble of several, or the cache of either.

    What the run kept counts first; a teacher or a cache that it only read is looked up where it was.
    """
    several = sorted(run_dir.glob(f"{TEACHER}-*"), key=lambda path: (len(path.name), path.name))
    known = [shape for shape in map(_shape, several or [run_dir / TEACHER]) if shape]
    if not known:
        return _elsewhere(run_dir)
    if not several:
        return known[0]
    counts = [member["parameters"] for member in known if "parameters" in member]
    total = {"parameters": sum(counts)} if len(counts) == len(several) else {}
    return {"architecture": "ensemble", **total, "members": known}


def _elsewhere(run_dir: Path) -> dict[str, Any]:
    """What is known of a teacher whose weights are not in the run: of a cache, or one that gave text only."""
    result, config = (_object(run_dir / name) for name in (RESULT_FILE, CONFIG_FILE))
    recorded = result.get("cached_teacher")
    if isinstance(recorded, dict):
        return recorded
    cache = config.get("cache")
    if isinstance(cache, str):
        return _cached(Path(cache), run_dir)
    teachers = config.get("teachers")
    if isinstance(teachers, list) and len(teachers) == 1 and Path(str(teachers[0])).is_dir():
        return _shape(Path(str(teachers[0])))
    return {}


def _cached(cache: Path, run_dir: Path) -> dict[str, Any]:
    """What a cache says of its teacher, if it is still there and of this run's tokenizer."""
    try:
        manifest = read_manifest(cache)
        tokenizer = file_sha256(run_dir / "tokenizer.json")
    except (CheckpointError, OSError):
        return {}
    return manifest.teacher_record() if manifest.origin.tokenizer == tokenizer else {}


def _shape(directory: Path) -> dict[str, Any]:
    """What is known of one teacher, of edgetext's own kinds or a Hugging Face model; nothing of another."""
    values = _object(directory / CONFIG_FILE)
    if isinstance(values.get("model_type"), str):
        return _huggingface_shape(directory, values)
    try:
        config = ModelConfig.from_dict(values)
    except (CheckpointError, ConfigError, TypeError):
        return {}
    return {"architecture": config.kind, "parameters": config.parameters(), "config": config.to_dict()}


def _huggingface_shape(directory: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What a Hugging Face model's config.json and the headers of its weights say."""
    inner = values.get("text_config")
    text = {**values, **inner} if isinstance(inner, dict) else values
    config: dict[str, int] = {}
    for name, theirs in _HUGGINGFACE_NAMES.items():
        found = next((text[key] for key in theirs if isinstance(text.get(key), int)), None)
        if found is not None:
            config[name] = found
    count = _stored_parameters(directory)
    parameters = {"parameters": count} if count else {}
    return {"architecture": values["model_type"], **parameters, "config": config}


def _stored_parameters(directory: Path) -> int:
    """Numbers in the weight files of a directory; 0 where there are none that can be read."""
    from safetensors import SafetensorError, safe_open

    count = 0
    try:
        for path in sorted(directory.glob("model*.safetensors")):
            with safe_open(path, framework="np") as file:
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return 0
    return count


def _object(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if there is none, or none that is an object."""
    try:
        values = read_json(path)
    except CheckpointError:
        return {}
    return values if isinstance(values, dict) else {}


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
