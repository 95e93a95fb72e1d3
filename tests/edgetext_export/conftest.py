"""Two run directories as `edgetext distill` leaves them, tiny, with random weights, made once."""

import hashlib
import json
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetext.checkpoint import save_model
from edgetext.models import ModelConfig, build_model
from edgetext.tokenization import train_tokenizer
from edgetext_export import ExportReport, export_run
from edgetext_runtime.tokenizer import Tokenizer

TEXTS = [
    f"The {colour} {animal} {verb} over the {thing}, and nobody in the {place} saw it."
    for colour, verb in (("quick", "ran"), ("brown", "flew"), ("lazy", "fell"))
    for animal in ("fox", "dog", "bird", "cat")
    for thing, place in (("fence", "village"), ("river", "wood"), ("old wall", "town"))
]


def write_run(directory: Path, config: ModelConfig, tokenizer_json: bytes) -> Path:
    """A finished run: student with lively random weights, tokenizer, corpus record, test split."""
    torch.manual_seed(1)
    model = build_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    save_model(directory / "student", model)
    save_model(directory / "teacher", build_model(config))
    (directory / "tokenizer.json").write_bytes(tokenizer_json)
    tokenizer = Tokenizer.from_json(tokenizer_json)
    stream = [token for text in TEXTS for token in (0, *tokenizer.encode(text))]
    (directory / "data").mkdir()
    np.save(directory / "data" / "test.npy", np.array(stream[:700], np.uint16))
    corpus = {
        "source": "/home/someone/corpora/animals.txt",
        "sha256": "0" * 64,
        "unit": "document",
        "documents": len(TEXTS),
        "characters": sum(map(len, TEXTS)),
        "licence": "CC0-1.0",
        "config": {"source": "/home/someone/corpora/animals.txt"},
        "tokenizer": {"kind": "bpe", "sha256": hashlib.sha256(tokenizer_json).hexdigest()},
        "splits": {"test": {"documents": len(TEXTS), "tokens": len(stream)}},
    }
    (directory / "corpus.json").write_text(json.dumps(corpus))
    (directory / "config.json").write_text(json.dumps({"seed": 1}))
    if config.labels:
        documents = stream[:700].count(0) - 1
        numbers = np.arange(documents) % len(config.labels)
        np.save(directory / "data" / "test.labels.npy", numbers.astype(np.uint16))
        (directory / "config.json").write_text(json.dumps({"seed": 1, "windows": "document"}))
    return directory


@pytest.fixture(scope="session")
def tokenizer_json() -> bytes:
    return train_tokenizer(TEXTS, "bpe", 320)


@pytest.fixture(scope="session")
def configs(tokenizer_json) -> dict[str, ModelConfig]:
    V = Tokenizer.from_json(tokenizer_json).vocab_size
    return {
        "lstm": ModelConfig("lstm", V, 32, 48, 2, tied=True),
        "transformer": ModelConfig("transformer", V, 32, 32, 2, 2, kv_heads=1, ffn=48, context=96, tied=True),
    }


@pytest.fixture(scope="session", params=["lstm", "transformer"])
def run(request, tmp_path_factory, configs, tokenizer_json) -> Path:
    """A run directory of each kind; read-only, copy it (`spoilt`) to damage it."""
    return write_run(tmp_path_factory.mktemp("runs") / request.param, configs[request.param], tokenizer_json)


@pytest.fixture(scope="session")
def gru_run(tmp_path_factory, configs, tokenizer_json) -> Path:
    """A run directory with a GRU; read-only."""
    config = replace(configs["lstm"], kind="gru")
    return write_run(tmp_path_factory.mktemp("runs") / "gru", config, tokenizer_json)


@pytest.fixture(scope="session", params=["lstm", "gru", "transformer"])
def conditioned(request, tmp_path_factory, configs, tokenizer_json) -> Path:
    """A run directory of each kind whose student has labels; read-only."""
    config = replace(configs.get(request.param, configs["lstm"]), labels=("good", "bad", "neither"))
    if not config.context:
        config = replace(config, kind=request.param)
    return write_run(tmp_path_factory.mktemp("conditioned") / request.param, config, tokenizer_json)


@pytest.fixture(scope="session", params=["int8", "fp32"])
def exported(request, run, tmp_path_factory) -> ExportReport:
    """The run's student as a bundle, in each precision."""
    return export_run(run, tmp_path_factory.mktemp("bundles") / "model.etx", request.param)


@pytest.fixture
def spoilt(tmp_path, tmp_path_factory, configs, tokenizer_json) -> Path:
    """A fresh LSTM run directory that a test may damage."""
    source = tmp_path_factory.getbasetemp() / "to-copy"
    if not source.exists():
        write_run(source, configs["lstm"], tokenizer_json)
    return Path(shutil.copytree(source, tmp_path / "run"))
