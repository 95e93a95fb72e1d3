"""Checkpoints on disk: safetensors and JSON only, always written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetext.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from edgetext.models.base import GeneratorModel

PARTIAL = ".partial"
"""Ending of files that are not whole yet."""
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` by temporary file, fsync and rename: readers see old or new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        _sync_directory(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_directory(path: Path) -> None:
    """Make a rename survive a power cut, where the system can sync a directory."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, keys in the order given."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises CheckpointError naming the file if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; is {path.parent} an edgetext directory?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors (and string metadata) as one safetensors file, atomically."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(contiguous, metadata=dict(metadata or {})))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: tensors by name, and its string metadata. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; has the training of this model finished?") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error


def model_tensors(model: GeneratorModel) -> dict[str, Tensor]:
    """State dict of a generator with tied weights kept once (under the embedding's name)."""
    tensors = dict(model.state_dict())
    if model.config.tied:
        tensors.pop("head.weight")
    return tensors


def load_model_tensors(model: GeneratorModel, tensors: Mapping[str, Tensor]) -> None:
    """Load what `model_tensors` gave. Raises CheckpointError when names or shapes differ."""
    complete = dict(tensors)
    if model.config.tied:
        complete["head.weight"] = complete.get("embedding.weight", model.embedding.weight)
    try:
        model.load_state_dict(complete)
    except RuntimeError as error:
        raise CheckpointError(f"weights do not fit the model configuration: {error}") from error


def save_model(directory: Path | str, model: GeneratorModel) -> None:
    """Write config.json and model.safetensors into `directory`."""
    directory = Path(directory)
    save_tensors(directory / MODEL_FILE, model_tensors(model), {"format": "edgetext-model-1"})
    write_json(directory / CONFIG_FILE, model.config.to_dict())


def load_model(directory: Path | str) -> GeneratorModel:
    """Read a model directory; returns the generator in evaluation mode, on the CPU.

    Raises CheckpointError when a file is missing, incomplete or does not fit the configuration.
    """
    from edgetext.models import ModelConfig, build_model

    directory = Path(directory)
    config = ModelConfig.from_dict(read_json(directory / CONFIG_FILE))
    tensors, _ = load_tensors(directory / MODEL_FILE)
    model = build_model(config)
    load_model_tensors(model, tensors)
    return model.eval()
