"""Runs as `edgetext distill` and `edgetext export --int8` leave them, as far as a comparison reads them."""

import json
from pathlib import Path
from typing import Any

from tiny_bundle import char_tokenizer, lstm_model, manifest, members

from edgetext_export.writer import write_bundle
from edgetext_runtime.tokenizer import Tokenizer


def write_compared_run(
    directory: Path,
    recipe: Any = "hinton",
    *,
    seed: int = 0,
    perplexity: float = 20.0,
    teacher: float | None = 19.0,
    options: dict[str, Any] | None = None,
    shape: dict[str, Any] | None = None,
    corpus: dict[str, Any] | None = None,
    tokens: int = 700,
    parameters: int = 1000,
) -> Path:
    """Write config, corpus and result of a run, and its int8 bundle with a quality record."""
    directory.mkdir(parents=True)
    tokenizer = char_tokenizer()
    vocabulary = Tokenizer.from_json(tokenizer).vocab_size
    config = {"recipe": recipe, "student": "lstm-student", "seed": seed, "checkpoint_every": 100 + seed}
    record = {
        "source": f"somewhere/{seed}/animals.txt",
        "sha256": "a" * 64,
        "unit": "line",
        "config": {"valid_fraction": 0.05, "test_fraction": 0.05, "split_seed": 0},
        "tokenizer": {"kind": "char", "vocab_size": vocabulary, "sha256": "b" * 64},
        "splits": {"test": {"documents": 6, "characters": 160, "tokens": 800}},
    }
    student = {
        "name": "distilled",
        "parameters": parameters,
        "test_perplexity": perplexity / 1.001,
        "agreement": None if teacher is None else 0.9 + seed / 100,
        "kl_teacher": None if teacher is None else 0.25,
        "seconds": 12.0,
    }
    rows = [student] if teacher is None else [{"name": "teacher", "test_perplexity": teacher}, student]
    result = {
        "machine": {"processor": "a processor"},
        "protocol": {"window": 128, "tokens": {"test": 799}},
        "student": "distilled",
        "models": rows,
    }
    files = {"config": config | (options or {}), "corpus": record | (corpus or {}), "result": result}
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    model, state = lstm_model(vocabulary)
    quality = {
        "split": "test",
        "tokens": tokens,
        "perplexity": {"fp32": perplexity / 1.001, "exported": perplexity},
        "perplexity_increase": 0.001,
        "flip_rate": {"prompt": 0.01, "step": 0.01},
    }
    config = {"kind": "lstm", "hidden": 16, **(shape or {})}
    bundle = manifest(vocabulary, state, config=config, parameters=parameters)
    contents = members(model, tokenizer, **{"quality.json": json.dumps(quality).encode()})
    write_bundle(directory / "student-int8.etx", bundle, contents)
    return directory
