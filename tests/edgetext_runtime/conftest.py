"""Tiny real bundles, built once."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from pathlib import Path

import pytest
import tiny_bundle as tiny

from edgetext_export.writer import write_bundle
from edgetext_runtime import Generator
from edgetext_runtime.tokenizer import Tokenizer

CHAR_VOCAB = 3 + len(tiny.ALPHABET)
BYTE_VOCAB = 2 + 256


@pytest.fixture(scope="session")
def lstm_path(tmp_path_factory) -> Path:
    """A character-level LSTM."""
    model, state = tiny.lstm_model(CHAR_VOCAB)
    path = tmp_path_factory.mktemp("bundles") / "lstm.etx"
    return write_bundle(path, tiny.manifest(CHAR_VOCAB, state), tiny.members(model, tiny.char_tokenizer()))


@pytest.fixture(scope="session")
def byte_path(tmp_path_factory) -> Path:
    """An LSTM that generates single bytes, so that many are parts of characters."""
    model, state = tiny.lstm_model(BYTE_VOCAB, seed=1)
    manifest = tiny.manifest(BYTE_VOCAB, state, special_tokens={"eos": 0, "pad": 1, "unk": None})
    path = tmp_path_factory.mktemp("bundles") / "bytes.etx"
    return write_bundle(path, manifest, tiny.members(model, tiny.byte_tokenizer()))


@pytest.fixture(scope="session")
def attention_path(tmp_path_factory) -> Path:
    """A character-level model with one attention layer and KV caches of ``tiny.CONTEXT`` tokens."""
    model, state = tiny.attention_model(CHAR_VOCAB, seed=2)
    path = tmp_path_factory.mktemp("bundles") / "attention.etx"
    return write_bundle(path, tiny.manifest(CHAR_VOCAB, state), tiny.members(model, tiny.char_tokenizer()))


@pytest.fixture(scope="session")
def lstm(lstm_path) -> Generator:
    return Generator.load(lstm_path)


@pytest.fixture(scope="session")
def byte_model(byte_path) -> Generator:
    return Generator.load(byte_path)


@pytest.fixture(scope="session")
def attention(attention_path) -> Generator:
    return Generator.load(attention_path)


@pytest.fixture(scope="session")
def char_tokenizer() -> Tokenizer:
    return Tokenizer.from_json(tiny.char_tokenizer())
