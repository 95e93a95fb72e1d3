"""A run directory being filled: corpus, batches and stages, as every part of a run needs them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from edgetext.config import VOCABULARIES, DistillConfig
from edgetext.corpus import CorpusRecord, load_record, prepare_corpus
from edgetext.distill.objective import check_recipe
from edgetext.distill.recipe import Recipe
from edgetext.distill.stage import run_stage
from edgetext.distill.tasks import DistillTask
from edgetext.distill.teachers import VALIDATION_TOKENS, Teacher
from edgetext.errors import CheckpointError
from edgetext.evaluate.likelihood import WINDOW, Windows
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import GeneratorModel
from edgetext.models.presets import resolve_model
from edgetext.training.data import (
    DocumentSampler,
    Labels,
    Sampler,
    WindowSampler,
    consecutive_windows,
    document_windows,
    open_labels,
    open_stream,
)
from edgetext.training.loop import step_seed
from edgetext.training.processes import by_main
from edgetext.training.settings import OptimizerSettings
from edgetext_runtime.tokenizer import Tokenizer

PROGRESS_S = 10.0
"""Seconds between lines while a corpus is read."""


class Workspace:
    """A run directory with what every stage needs, opened once."""

    def __init__(
        self,
        config: DistillConfig,
        directory: Path,
        tokenizer: bytes | None,
        accelerator: Accelerator,
        say: Callable[[str], object],
        write: Callable[[str], object] | None,
    ) -> None:
        """`tokenizer` is a teacher's tokenizer.json; None trains one."""
        self.config, self.directory, self.say, self.write = config, directory, say, write
        self.accelerator = accelerator
        self.device = self.accelerator.device
        self.corpus = by_main(accelerator, lambda: _prepare_corpus(config, directory, tokenizer, say))
        self.tokenizer = Tokenizer.from_json((directory / "tokenizer.json").read_bytes())
        self.vocab_size = self.tokenizer.vocab_size
        streams = {name: open_stream(directory / "data" / f"{name}.npy") for name in self.corpus.splits}
        self.train, self.valid, self.test = streams["train"], streams["valid"], streams["test"]
        names = tuple(self.corpus.labels or ())
        self.labels: dict[str, Labels] = {
            name: open_labels(directory / "data" / f"{name}.labels.npy", stream, len(names))
            for name, stream in (streams.items() if names else ())
        }
        self.validation = self.windows(self.valid, VALIDATION_TOKENS, self.labels.get("valid"))

    def shape(self, text: str) -> ModelConfig:
        """Shape that `text` names, for this run's vocabulary and labels."""
        return replace(resolve_model(text, self.vocab_size), labels=tuple(self.corpus.labels or ()))

    def windows(
        self, stream: NDArray[np.unsignedinteger], limit: int | None = None, labels: Labels | None = None
    ) -> Windows:
        """Evaluation windows of a stream, as the configuration wants them."""
        if self.config.windows == "document":
            return document_windows(stream, WINDOW, 32, limit, labels)
        return consecutive_windows(stream, WINDOW, 32, limit)

    def sampler(self, stream: NDArray[np.unsignedinteger] | None = None) -> Sampler:
        """Training rows of a stream (the corpus's, if none is given)."""
        config = self.config
        rows, labels = (self.train, self.labels.get("train")) if stream is None else (stream, None)
        if config.windows == "document":
            return DocumentSampler(rows, config.sequence_length, config.batch_size, config.seed, labels)
        return WindowSampler(rows, config.sequence_length, config.batch_size, config.seed)

    def stage(
        self,
        name: str,
        steps: int,
        settings: dict[str, Any],
        build: Callable[[], Any],
        *,
        stops_early: bool = True,
    ) -> tuple[GeneratorModel, dict[str, Any]]:
        """Train or find one stage of this run; `stops_early` where the configured patience says so."""
        loop = self.config.loop(steps)
        data = {"corpus": self.corpus.sha256, "tokenizer": self.corpus.tokenizer["sha256"]}
        everything = {
            **settings,
            "data": data,
            "split": self.corpus.config,
            "windows": self.config.windows,
            **({"contrast": self.config.contrast} if self.labels else {}),
        }
        return run_stage(
            self.directory / name,
            everything,
            loop if stops_early else replace(loop, patience=0),
            build,
            self.accelerator,
            self.say,
            self.write,
        )

    def task(
        self,
        name: str,
        student: GeneratorModel,
        recipe: Recipe,
        steps: int,
        rate: float,
        teacher: Teacher | None = None,
        written: Sampler | None = None,
        module: GeneratorModel | None = None,
        sampler: Sampler | None = None,
        validation: Windows | None = None,
    ) -> DistillTask:
        """Training of `student` by a recipe. Raises ConfigError if the recipe cannot work between the two."""
        check_recipe(recipe, student.config, teacher.view if teacher else None)
        return DistillTask(
            name,
            student,
            recipe,
            steps,
            sampler or self.sampler(),
            self.validation if validation is None else validation,
            OptimizerSettings(rate),
            self.config.loop(steps).parts(self.accelerator.num_processes),
            targets=teacher.targets(recipe) if teacher and recipe.losses() != {"hard"} else None,
            teacher=teacher.view.config if teacher else None,
            written=written,
            written_targets=teacher.written_targets(recipe) if teacher else None,
            module=module,
            contrast=self.config.contrast,
            seed=self.config.seed,
        )

    def fresh(self, name: str, shape: ModelConfig) -> GeneratorModel:
        """Initialise a model; the weights depend on the seed and the stage only."""
        torch.manual_seed(step_seed(self.config.seed, f"{name}-initialisation", 0))
        return build_model(shape)


def _prepare_corpus(
    config: DistillConfig, directory: Path, tokenizer: bytes | None, say: Callable[[str], object]
) -> CorpusRecord:
    """Prepare the corpus unless the run holds it already."""
    record = load_record(directory)
    if record is not None:
        if tokenizer is not None and hashlib.sha256(tokenizer).hexdigest() != record.tokenizer["sha256"]:
            raise CheckpointError(
                f"{directory} was prepared with another tokenizer than its teacher gives now: the teacher or "
                f"the corpus has changed since; start again with --force"
            )
        say(f"corpus: {record.source}, prepared before")
        return record
    say(f"corpus: reading {config.corpus.source}")
    size = VOCABULARIES[config.tokenizer] if config.vocab_size is None else config.vocab_size
    record = prepare_corpus(
        config.corpus,
        config.tokenizer,
        size,
        directory,
        tokenizer=tokenizer,
        progress=_corpus_progress(say),
    )
    tokens = ", ".join(f"{name} {split.tokens:,}" for name, split in record.splits.items())
    say(
        f"corpus: {record.documents:,} documents, {record.characters:,} characters; "
        f"{record.tokenizer['kind']} tokenizer, {record.tokenizer['vocab_size']:,} ids; tokens: {tokens}"
    )
    return record


def _corpus_progress(say: Callable[[str], object]) -> Callable[[str, int, int | None], None]:
    """Say every few seconds how many documents have been read."""
    last = time.monotonic()

    def report(phase: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_S:
            last = time.monotonic()
            of = "" if total is None else f" of {total:,}"
            say(f"corpus: {phase}, {done:,}{of} documents")

    return report
