"""Model directories of every make: edgetext's own, Hugging Face's, those read through a vocabulary map."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from edgetext.checkpoint import CONFIG_FILE, MODEL_FILE, PARTIAL, load_model, read_json
from edgetext.distill.directory import file_sha256
from edgetext.distill.vocabulary import VOCABULARY_FILE, load_restricted
from edgetext.models.base import GeneratorModel
from edgetext.models.config import ModelConfig
from edgetext.models.huggingface import huggingface_sha256, is_huggingface, load_huggingface


def load_any(directory: Path) -> GeneratorModel:
    """Read a model directory of any make; in evaluation mode, on the CPU. Raises CheckpointError."""
    if is_mapped(directory):
        return load_restricted(directory).eval()
    if is_huggingface(directory):
        return load_huggingface(directory).eval()
    return load_model(directory)


def is_finished_model(directory: Path) -> bool:
    """Whether a directory holds a whole model."""
    return (directory / MODEL_FILE).is_file() or is_huggingface(directory)


def is_mapped(directory: Path) -> bool:
    """Whether a model is read through a vocabulary map."""
    return (directory / VOCABULARY_FILE).is_file()


def save_whole(model: GeneratorModel, directory: Path) -> None:
    """Write a model directory that appears when all of it is there; what was there before is replaced."""
    draft = directory.with_name(f".{directory.name}{PARTIAL}")
    for place in (draft, directory):
        shutil.rmtree(place, ignore_errors=True)
    model.save(draft)
    draft.replace(directory)


def model_fingerprint(directory: Path) -> str:
    """SHA-256 of all that a model directory's outputs depend on."""
    foreign = is_huggingface(directory)
    weights = huggingface_sha256(directory) if foreign else file_sha256(directory / MODEL_FILE)
    vocabulary = directory / VOCABULARY_FILE
    if not vocabulary.is_file():
        return weights
    return hashlib.sha256(weights.encode() + vocabulary.read_bytes()).hexdigest()


def shape_of(directory: Path) -> ModelConfig:
    """Shape of a model directory, without reading the weights of an own one."""
    if is_huggingface(directory):
        return load_huggingface(directory).config
    return ModelConfig.from_dict(read_json(directory / CONFIG_FILE))
