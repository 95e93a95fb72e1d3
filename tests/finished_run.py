"""The records of a finished run, written by hand: what a report is made from, without the training."""

import json
from pathlib import Path

from edgetext.tokenization import train_tokenizer

TEXTS = ["the red cat sits on the hill.", "the blue dog sleeps by the river.", "a bird sings."] * 20


def write_records(directory: Path, tokenizer: str = "bpe", unknown: int = 0, validated: bool = True) -> Path:
    """Fill a directory with result, corpus, configuration, tokenizer and the metrics of every stage."""
    directory.mkdir()
    tokenizer_json = train_tokenizer(TEXTS, tokenizer, 300)
    (directory / "tokenizer.json").write_bytes(tokenizer_json)
    corpus = {
        "source": "animals.txt",
        "documents": 60,
        "characters": 1_600,
        "licence": "CC0-1.0",
        "tokenizer": {"kind": tokenizer, "vocab_size": 300},
        "splits": {"test": {"documents": 6, "characters": 160, "tokens": 800, "unknown": unknown}},
    }
    row = {
        "kind": "lstm",
        "parameters": 1_000,
        "fp32_bytes": 4_000,
        "valid_perplexity": 3.5,
        "test_perplexity": 3.6,
        "quality_kept": 1.0,
        "agreement": 0.9,
        "torch_tokens_per_second": 2_000.0,
    }
    point = {"lm_score": 2.0, "reverse_lm_score": 2.5}
    names = ("teacher", "distilled")
    result = {
        "label": "measured",
        "machine": {"processor": "a processor", "cores": 2},
        "protocol": {"window": 128, "tokens": {"test": 799}},
        "student": "distilled",
        "models": [{"name": name, **row} for name in names],
        "refinement": None,
        "frontier": {
            "texts": 300,
            "people": point,
            "sweeps": {name: [{"temperature": t, **point} for t in (0.7, 1.0)] for name in names},
        },
        "samples": ["a cat sings."],
    }
    for name, content in (("corpus", corpus), ("config", {"seed": 0}), ("result", result)):
        (directory / f"{name}.json").write_text(json.dumps(content))
    for name in names:
        lines = [
            {"step": step, "generator_loss": 3.0}
            | ({"validation": {"score": 4.0 - step / 10}} if validated else {})
            for step in range(1, 11)
        ]
        (directory / name).mkdir()
        (directory / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory
