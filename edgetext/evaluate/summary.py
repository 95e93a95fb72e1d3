"""The final figures of a run: teacher, distilled and refined student side by side, each measured once."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetext.checkpoint import read_json, write_json
from edgetext.distill.directory import stage_names
from edgetext.distill.model_files import is_finished_model, load_any
from edgetext.evaluate.frontier import Referee, Verdict, beginnings
from edgetext.evaluate.likelihood import WINDOW, decode_speed, measure
from edgetext.evaluate.ngrams import ReferenceSet, bleu, self_bleu
from edgetext.models.base import GeneratorModel, sample_tokens
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.quantized import QuantizedGenerator
from edgetext_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgetext.distill.teachers import Teacher
    from edgetext.distill.workspace import Workspace

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


STAGES = ("distilled", "refined", "quantized")
"""Stages that may have made the student, the last one in use wins."""


def summarise(work: Workspace, teacher: Teacher | None, verdict: Verdict | None) -> dict[str, Any]:
    """Measure every model of a run and write result.json; returns what it holds."""
    frontier = ", quality against diversity" if work.config.frontier else ""
    work.say(f"measuring: perplexity, agreement, speed{frontier}")
    models = _models(work, teacher)
    splits = {
        name: work.windows(stream, EVALUATION_TOKENS, work.labels.get(name))
        for name, stream in (("valid", work.valid), ("test", work.test))
    }
    valid = measure(models, splits["valid"])
    test = measure(models, splits["test"], "teacher" if "teacher" in models else None)
    rows: list[dict[str, Any]] = []
    for name, model in models.items():
        plain = model.model if isinstance(model, QuantizedGenerator) else model
        likelihood, likeness = test[name]
        rows.append(
            {
                "name": name,
                "kind": model.config.kind,
                "arithmetic": "fp32" if plain is model else "int8",
                "parameters": model.parameters_count(),
                "fp32_bytes": 4 * model.parameters_count(),
                "valid_perplexity": valid[name][0].perplexity,
                "test_perplexity": likelihood.perplexity,
                "quality_kept": None,
                "agreement": None if likeness is None else likeness.agreement,
                "kl_teacher": None if likeness is None else likeness.kl,
                "torch_tokens_per_second": decode_speed(plain),
                "seconds": _stage_seconds(work.directory / name),
            }
        )
    _add_kept(rows)
    accepted = _accepted(work, verdict)
    chosen = {name: model for name, model in models.items() if name in ("teacher", *STAGES)}
    result = {
        "label": "measured",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "protocol": {
            "windows": work.config.windows,
            "window": WINDOW,
            "tokens": {name: sum(int(w.mask.sum()) for w in windows) for name, windows in splits.items()},
        },
        "student": accepted,
        "cached_teacher": teacher.cache.manifest.teacher_record() if teacher and teacher.cache else None,
        "models": rows,
        "refinement": None if verdict is None else asdict(verdict),
        "frontier": _frontier(work, chosen) if work.config.frontier else None,
        "samples": _samples(work.tokenizer, models[accepted]),
    }
    write_json(work.directory / RESULT_FILE, result)
    return result


def _models(work: Workspace, teacher: Teacher | None) -> dict[str, GeneratorModel]:
    """Every model of the run by name; of an ensemble, its members before it.

    What was trained through the arithmetic of the int8 bundle is measured in it, as it is exported.
    """
    models: dict[str, GeneratorModel] = {}
    count = len(list(work.directory.glob("teacher-*")))
    names = stage_names("teacher", count) if count else ["teacher"]
    if teacher is not None and teacher.codec is not None:
        pass  # reads other ids than the student: nothing of the two can be compared token by token
    elif any(is_finished_model(work.directory / name) for name in names):
        members = {name: load_any(work.directory / name) for name in names}
        models |= members if count else {}
        models["teacher"] = EnsembleGenerator(list(members.values())) if count else members["teacher"]
    elif teacher is not None and teacher.model is not None:
        models["teacher"] = teacher.model
    config = work.config
    stages = (*stage_names("assistant", len(config.assistants)), *STAGES)
    in_use = {"refined": config.refine_steps, "quantized": config.quantized_steps}
    for name in stages:
        if in_use.get(name, 1) and is_finished_model(work.directory / name):
            model = load_any(work.directory / name)
            models[name] = QuantizedGenerator(model) if name == "quantized" else model
    return {name: model.to(work.device).eval() for name, model in models.items()}


def _accepted(work: Workspace, verdict: Verdict | None) -> str:
    """Name of the stage whose weights are the student's."""
    if work.config.quantized_steps:
        return "quantized"
    return "refined" if verdict is not None and verdict.accepted else "distilled"


def _add_kept(rows: list[dict[str, Any]]) -> None:
    """Put the teacher's test perplexity over each model's into its row, where there is a teacher."""
    for teacher in [row for row in rows if row["name"] == "teacher"]:
        for row in rows:
            row["quality_kept"] = teacher["test_perplexity"] / row["test_perplexity"]


def _frontier(work: Workspace, models: dict[str, GeneratorModel]) -> dict[str, Any]:
    """Temperature sweeps of every model, and the human row, on the test split."""
    test = work.test
    referee = Referee(work.train, test, work.vocab_size, work.tokenizer.suppressed)
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
    """A few texts of the student, as long as it can read, from the start of a document, temperature 0.7."""
    length = SHOWN_TOKENS[tokenizer.kind]
    length = min(length, model.config.context or length)
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
