"""The final figures of a run: teacher, distilled and refined student side by side, each measured once."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgetext.checkpoint import load_model, read_json, write_json
from edgetext.evaluate.frontier import Referee, Verdict, beginnings
from edgetext.evaluate.likelihood import WINDOW, agreement, decode_speed, likelihood
from edgetext.evaluate.ngrams import ReferenceSet, bleu, self_bleu
from edgetext.models.base import GeneratorModel, sample_tokens
from edgetext.training.data import consecutive_windows
from edgetext_runtime.tokenizer import Tokenizer

RESULT_FILE = "result.json"
TEMPERATURES = (0.7, 0.85, 1.0, 1.15)
"""Temperatures of the sweep."""
SWEEP_SEED = 11
"""Seed of the sweep's samples; the referee's verdict uses others."""
EVALUATION_TOKENS = 100_000
"""Most tokens of a split that final perplexities read, from its start; the number read is in the record."""
SHOWN_TOKENS = {"bpe": 80, "word": 80, "char": 240}
"""Most tokens of a sample in the report, by tokenizer kind."""
OVERLAP_TEXTS = 1000
"""Most real texts that BLEU is taken against."""


def summarise(
    directory: Path,
    tokenizer: Tokenizer,
    train: NDArray[np.unsignedinteger],
    valid: NDArray[np.unsignedinteger],
    test: NDArray[np.unsignedinteger],
    verdict: Verdict | None,
    device: torch.device,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Measure every model of a run and write result.json; returns what it holds."""
    say("measuring: perplexity, agreement, speed, quality against diversity")
    models = {
        name: load_model(directory / name).to(device)
        for name in ("teacher", "distilled", "refined")
        if (directory / name / "model.safetensors").exists() and (name != "refined" or verdict)
    }
    splits = {
        name: consecutive_windows(stream, WINDOW, 32, EVALUATION_TOKENS)
        for name, stream in (("valid", valid), ("test", test))
    }
    rows: list[dict[str, Any]] = []
    for name, model in models.items():
        measured = {split: likelihood(model, windows) for split, windows in splits.items()}
        rows.append(
            {
                "name": name,
                "kind": model.config.kind,
                "parameters": model.parameters_count(),
                "fp32_bytes": (directory / name / "model.safetensors").stat().st_size,
                "valid_perplexity": measured["valid"].perplexity,
                "test_perplexity": measured["test"].perplexity,
                "quality_kept": rows[0]["test_perplexity"] / measured["test"].perplexity if rows else 1.0,
                "agreement": agreement(model, models["teacher"], splits["test"]),
                "torch_tokens_per_second": decode_speed(model),
                "seconds": _stage_seconds(directory / name),
            }
        )
    accepted = "refined" if verdict is not None and verdict.accepted else "distilled"
    referee = Referee(train, test, tokenizer.vocab_size, tokenizer.suppressed)
    result = {
        "label": "measured",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "protocol": {
            "window": WINDOW,
            "tokens": {name: sum(int(m.sum()) for _, m in windows) for name, windows in splits.items()},
        },
        "student": accepted,
        "models": rows,
        "refinement": None if verdict is None else asdict(verdict),
        "frontier": _frontier(referee, models, test),
        "samples": _samples(tokenizer, models[accepted]),
    }
    write_json(directory / RESULT_FILE, result)
    return result


def _frontier(
    referee: Referee, models: dict[str, GeneratorModel], test: NDArray[np.unsignedinteger]
) -> dict[str, Any]:
    """Temperature sweeps of every model, and the human row, on the test split."""
    real = beginnings(test, OVERLAP_TEXTS)
    references = ReferenceSet(real, max_order=4)

    def overlap(texts: list[list[int]]) -> dict[str, float]:
        written = [text for text in texts if text]
        return {"bleu_4": bleu(written, references, (4,))[4], "self_bleu_4": self_bleu(written, (4,))[4]}

    sweeps: dict[str, list[dict[str, float]]] = {}
    for name, model in models.items():
        sweeps[name] = []
        for temperature in TEMPERATURES:
            texts = referee.sample(model, SWEEP_SEED, temperature)
            scores = {**vars(referee.judge(texts)), **overlap(texts)}
            sweeps[name].append({"temperature": temperature, **scores})
    return {
        "texts": referee.texts,
        "references": len(real),
        "people": {**vars(referee.judge_people()), **overlap(referee.human_texts)},
        "sweeps": sweeps,
    }


def _samples(tokenizer: Tokenizer, model: GeneratorModel, count: int = 3) -> list[str]:
    """A few texts of the student, from the start of a document, temperature 0.7."""
    length = SHOWN_TOKENS[tokenizer.kind]
    texts = sample_tokens(
        model, 4 * count, length, seed=SWEEP_SEED, temperature=0.7, suppressed=tokenizer.suppressed
    )
    return [tokenizer.decode(text) for text in texts if text][:count]


def _stage_seconds(directory: Path) -> float | None:
    path = directory / "stage.json"
    return round(read_json(path)["seconds"], 1) if path.exists() else None


def processor() -> str:
    """The CPU's model name, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
