"""The main job, top to bottom: corpus → teacher → distilled student → refined student → report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accelerate
import torch

from edgetext.adversarial.refine import RefineTask
from edgetext.checkpoint import MODEL_FILE, load_model, save_model
from edgetext.config import VOCABULARIES, DistillConfig
from edgetext.corpus import CorpusRecord, load_record, prepare_corpus
from edgetext.corpus.sources import source_kind
from edgetext.distill.directory import discard_empty_run, file_sha256, find_teacher, open_run
from edgetext.distill.stage import run_stage
from edgetext.distill.tasks import DistillTask, LikelihoodTask
from edgetext.errors import ConfigError, EdgetextError
from edgetext.evaluate.frontier import Referee, Verdict, compare
from edgetext.evaluate.likelihood import WINDOW, Windows, likelihood
from edgetext.evaluate.report import write_report
from edgetext.evaluate.summary import EVALUATION_TOKENS, summarise
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import GeneratorModel
from edgetext.models.presets import resolve_model
from edgetext.training.data import WindowSampler, consecutive_windows, open_stream
from edgetext.training.loop import resolve_precision, step_seed
from edgetext.training.settings import OptimizerSettings
from edgetext_runtime.tokenizer import Tokenizer

VALIDATION_TOKENS = 16_384
"""Most tokens of the validation split that are read at every validation."""
REFEREE_SEEDS = tuple(range(1, 11))
"""Sample sets on which the refined student is judged; none of them is looked at before."""
PLAIN_TEXT = {".txt", ".txt.gz", "stdin", "builtin"}
"""Kinds of sources that have no columns."""
PROGRESS_S = 10.0
"""Seconds between lines while a corpus is read."""


ANY_VOCABULARY = 1000
"""Vocabulary size with which shapes are checked before the tokenizer is known."""


class Run:
    """A run directory being filled: what every stage needs, opened once."""

    def __init__(
        self,
        config: DistillConfig,
        directory: Path,
        say: Callable[[str], object],
        write: Callable[[str], object] | None,
    ) -> None:
        self.config, self.directory, self.say, self.write = config, directory, say, write
        self.accelerator = _accelerator(config)
        self.device = self.accelerator.device
        self.corpus = _prepare_corpus(config, directory, say)
        self.tokenizer = Tokenizer.from_json((directory / "tokenizer.json").read_bytes())
        self.vocab_size = self.tokenizer.vocab_size
        streams = {name: open_stream(directory / "data" / f"{name}.npy") for name in self.corpus.splits}
        self.train, self.valid, self.test = streams["train"], streams["valid"], streams["test"]
        self.validation = consecutive_windows(self.valid, WINDOW, 32, VALIDATION_TOKENS)
        self.referee = Referee(self.train, self.valid, self.vocab_size, self.tokenizer.suppressed)

    def stage(
        self, name: str, steps: int, settings: dict[str, Any], build: Callable[[], Any]
    ) -> tuple[GeneratorModel, dict[str, Any]]:
        """Train or find one stage of this run."""
        data = {"corpus": self.corpus.sha256, "tokenizer": self.corpus.tokenizer["sha256"]}
        return run_stage(
            self.directory / name,
            {**settings, "data": data, "split": self.corpus.config},
            self.config.loop(steps),
            build,
            self.accelerator,
            self.say,
            self.write,
        )

    def likelihood_task(self, name: str, shape: ModelConfig, rate: float) -> LikelihoodTask:
        """Maximum-likelihood training of a fresh model."""
        return LikelihoodTask(name, self.fresh(name, shape), *self._reading(rate))

    def distill_task(
        self, name: str, student: GeneratorModel, teacher: GeneratorModel, rate: float
    ) -> DistillTask:
        """Distillation of `teacher` into `student`."""
        return DistillTask(name, student, teacher, self.config.soft, *self._reading(rate))

    def _reading(self, rate: float) -> tuple[WindowSampler, Windows, OptimizerSettings, int]:
        """What every task reads: batches, validation windows, optimiser, parts of a batch."""
        config = self.config
        sampler = WindowSampler(self.train, config.sequence_length, config.batch_size, config.seed)
        return sampler, self.validation, OptimizerSettings(rate), config.accumulation

    def fresh(self, name: str, shape: ModelConfig) -> GeneratorModel:
        """Initialise a model; the weights depend on the seed and the stage only."""
        torch.manual_seed(step_seed(self.config.seed, f"{name}-initialisation", 0))
        return build_model(shape)


def distill(
    config: DistillConfig,
    directory: Path,
    *,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], object] = lambda line: None,
    write: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Take a corpus to a refined student; returns what `result.json` holds.

    `say` gets one line per event; `write`, if given, gets plain progress lines instead of a live bar. An
    existing run is refused unless `resume` (finished stages are kept, an unfinished one goes on) or `force`
    (it is deleted). Raises ConfigError, CorpusError or CheckpointError.
    """
    _check_inputs(config)
    open_run(config, directory, resume=resume, force=force)
    try:
        run = Run(config, directory, say, write)
    except EdgetextError:
        discard_empty_run(directory)
        raise

    teacher, teacher_record = _teacher(run)
    student, student_record = _distilled(run, teacher, teacher_record)
    refined, verdict = _refined(run, teacher, student, student_record)
    save_model(directory / "student", refined if verdict is not None and verdict.accepted else student)
    say("student: " + (verdict.reason if verdict is not None else "the distilled weights, not refined"))

    result = summarise(directory, run.tokenizer, run.train, run.valid, run.test, verdict, run.device, say)
    write_report(directory)
    return result


def _check_inputs(config: DistillConfig) -> None:
    """Refuse what cannot work before anything is written or deleted."""
    kind = source_kind(config.corpus)
    if config.corpus.column is not None and kind in PLAIN_TEXT:
        raise ConfigError(
            f"--column goes with tables, but {config.corpus.source} is plain text; leave it out"
        )
    if not Path(config.teacher).is_dir():
        _check_context(resolve_model(config.teacher, ANY_VOCABULARY), "--teacher", config)
    else:
        find_teacher(Path(config.teacher))
    _check_context(resolve_model(config.student, ANY_VOCABULARY), "--student", config)


def _check_context(shape: ModelConfig, flag: str, config: DistillConfig) -> None:
    """A Transformer must see whole training windows and whole evaluation windows."""
    needed = max(WINDOW, config.sequence_length)
    if shape.kind == "transformer" and shape.context < needed:
        raise ConfigError(
            f"{flag} has context={shape.context}, but windows of {needed} tokens are read; add "
            f"context={needed} to the shape, or lower --sequence-length (evaluation always needs {WINDOW})"
        )


def _teacher(run: Run) -> tuple[GeneratorModel, dict[str, Any]]:
    """Train the teacher, or take the one that was given."""
    config, directory = run.config, run.directory / "teacher"
    given = Path(config.teacher)
    if not given.is_dir():
        shape = resolve_model(config.teacher, run.vocab_size)
        return run.stage(
            "teacher",
            config.teacher_steps,
            {"model": shape.to_dict(), "rate": config.teacher_rate},
            lambda: run.likelihood_task("teacher", shape, config.teacher_rate),
        )
    if not (directory / MODEL_FILE).exists():
        save_model(directory, load_model(find_teacher(given)[0]))
    teacher = load_model(directory)
    _check_context(teacher.config, "--teacher", config)
    if teacher.config.vocab_size != run.vocab_size:
        raise ConfigError(
            f"the teacher has {teacher.config.vocab_size} token ids, its tokenizer {run.vocab_size}; "
            f"give the run that made the teacher as --teacher"
        )
    run.say(f"teacher: {config.teacher}, {teacher.parameters_count():,} parameters")
    return teacher, {"fingerprint": file_sha256(directory / MODEL_FILE)}


def _distilled(
    run: Run, teacher: GeneratorModel, teacher_record: dict[str, Any]
) -> tuple[GeneratorModel, dict[str, Any]]:
    """Distil the teacher into a student of the configured shape."""
    config = run.config
    shape = resolve_model(config.student, run.vocab_size)
    return run.stage(
        "distilled",
        config.distill_steps,
        {
            "model": shape.to_dict(),
            "rate": config.student_rate,
            "soft": asdict(config.soft),
            "teacher": teacher_record["fingerprint"],
        },
        lambda: run.distill_task("distil", run.fresh("student", shape), teacher, config.student_rate),
    )


def _refined(
    run: Run, teacher: GeneratorModel, student: GeneratorModel, student_record: dict[str, Any]
) -> tuple[GeneratorModel, Verdict | None]:
    """Refine the student adversarially and put both before the referee."""
    config = run.config
    if config.refine_steps == 0:
        return student, None

    def build() -> RefineTask:
        start = load_model(run.directory / "distilled")
        anchor = run.distill_task("anchor", start, teacher, config.refine_rate)
        torch.manual_seed(step_seed(config.seed, "discriminator-initialisation", 0))
        return RefineTask(anchor, config.refine, config.refine_steps, run.referee, config.seed + 1000)

    refined, _ = run.stage(
        "refined",
        config.refine_steps,
        {
            "rate": config.refine_rate,
            "soft": asdict(config.soft),
            "game": asdict(config.refine),
            "student": student_record["fingerprint"],
        },
        build,
    )
    run.say("refined: judging quality and diversity of fresh samples")
    windows = consecutive_windows(run.valid, WINDOW, 32, EVALUATION_TOKENS)
    for model in (student, refined):
        model.to(run.device)
    nll = likelihood(student, windows).nll, likelihood(refined, windows).nll
    return refined, compare(run.referee, student, refined, REFEREE_SEEDS, nll)


def _accelerator(config: DistillConfig) -> accelerate.Accelerator:
    """One accelerator for all stages of a run."""
    state = accelerate.PartialState()
    if state.num_processes > 1:
        raise ConfigError(
            f"a run works in one process for now, not in {state.num_processes}; start it without a launcher"
        )
    return accelerate.Accelerator(mixed_precision=resolve_precision(config.precision, state.device))


def _prepare_corpus(config: DistillConfig, directory: Path, say: Callable[[str], object]) -> CorpusRecord:
    """Prepare the corpus unless the run holds it already."""
    record = load_record(directory)
    if record is not None:
        say(f"corpus: {record.source}, prepared before")
        return record
    given = Path(config.teacher)
    tokenizer = find_teacher(given)[1] if given.is_dir() else None
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
