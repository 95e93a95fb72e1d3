"""The main job, top to bottom: corpus → teacher → distilled student → refined student → report."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accelerate
import torch

import edgetext
from edgetext.adversarial.refine import RefineTask
from edgetext.checkpoint import load_model, read_json, save_model, write_json
from edgetext.config import VOCABULARIES, DistillConfig, fingerprint
from edgetext.corpus import CorpusRecord, load_record, prepare_corpus
from edgetext.distill.stage import run_stage
from edgetext.distill.tasks import DistillTask, LikelihoodTask
from edgetext.errors import CheckpointError, ConfigError
from edgetext.evaluate.frontier import Referee, Verdict, compare
from edgetext.evaluate.likelihood import WINDOW, likelihood
from edgetext.evaluate.report import write_report
from edgetext.evaluate.summary import summarise
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import GeneratorModel
from edgetext.models.presets import resolve_model
from edgetext.training.data import WindowSampler, consecutive_windows, open_stream
from edgetext.training.loop import resolve_precision, step_seed
from edgetext.training.settings import LoopSettings, OptimizerSettings
from edgetext_runtime.tokenizer import Tokenizer

VALIDATION_TOKENS = 16_384
"""Most tokens of the validation split that are read at every validation; the final figures read it all."""
REFEREE_SEEDS = (1, 2, 3, 4, 5)
"""Sample sets on which the refined student is judged; none of them is looked at before."""


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
        self.corpus = _prepare_corpus(config, directory, say)
        self.vocab_size: int = self.corpus.tokenizer["vocab_size"]
        streams = {name: open_stream(directory / "data" / f"{name}.npy") for name in self.corpus.splits}
        self.train, self.valid, self.test = streams["train"], streams["valid"], streams["test"]
        self.tokenizer = Tokenizer.from_json((directory / "tokenizer.json").read_bytes())
        self.validation = consecutive_windows(self.valid, WINDOW, 32, VALIDATION_TOKENS)
        device = accelerate.PartialState().device
        self.accelerator = accelerate.Accelerator(mixed_precision=resolve_precision(config.precision, device))
        self.parts = config.accumulation

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

    def fresh(self, name: str, shape: ModelConfig) -> GeneratorModel:
        """Initialise a model; the weights depend on the seed and the stage only."""
        torch.manual_seed(step_seed(self.config.seed, f"{name}-initialisation", 0))
        return build_model(shape)

    def sampler(self, loop: LoopSettings) -> WindowSampler:
        """Training batches of this run."""
        return WindowSampler(self.train, loop.sequence_length, loop.batch_size, loop.seed)


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
    _open_directory(config, directory, resume=resume, force=force)
    run = Run(config, directory, say, write)
    write_json(directory / "config.json", {**config.to_dict(), "versions": _versions()})

    teacher, teacher_record = _teacher(run)
    student, student_record = _distilled(run, teacher, teacher_record)
    refined, verdict = _refined(run, teacher, student, student_record)
    save_model(directory / "student", refined if verdict is not None and verdict.accepted else student)
    say("student: " + (verdict.reason if verdict is not None else "the distilled weights, not refined"))

    result = summarise(directory, run.tokenizer, run.train, run.valid, run.test, verdict, say)
    write_report(directory)
    return result


def _teacher(run: Run) -> tuple[GeneratorModel, dict[str, Any]]:
    """Train the teacher, or load the one that was given."""
    config = run.config
    given = Path(config.teacher)
    if given.is_dir():
        teacher = load_model(_teacher_directory(given))
        save_model(run.directory / "teacher", teacher)
        run.say(f"teacher: {config.teacher}, {teacher.parameters_count():,} parameters")
        record = {"fingerprint": fingerprint(config.teacher, teacher.config.to_dict())}
    else:
        shape = resolve_model(config.teacher, run.vocab_size)
        loop = config.loop(config.teacher_steps)
        optimizer = OptimizerSettings(config.teacher_rate)
        teacher, record = run.stage(
            "teacher",
            config.teacher_steps,
            {"model": shape.to_dict(), "optimizer": asdict(optimizer)},
            lambda: LikelihoodTask(
                "teacher",
                run.fresh("teacher", shape),
                run.sampler(loop),
                run.validation,
                optimizer,
                run.parts,
            ),
        )
    if teacher.config.vocab_size != run.vocab_size:
        raise ConfigError(
            f"the teacher has {teacher.config.vocab_size} token ids, the corpus's tokenizer "
            f"{run.vocab_size}; give the teacher's run directory as --teacher, so that its tokenizer is used"
        )
    return teacher, record


def _distilled(
    run: Run, teacher: GeneratorModel, teacher_record: dict[str, Any]
) -> tuple[GeneratorModel, dict[str, Any]]:
    """Distil the teacher into a student of the configured shape."""
    config = run.config
    shape = resolve_model(config.student, run.vocab_size)
    loop = config.loop(config.distill_steps)
    optimizer = OptimizerSettings(config.student_rate)
    return run.stage(
        "distilled",
        config.distill_steps,
        {
            "model": shape.to_dict(),
            "optimizer": asdict(optimizer),
            "soft": asdict(config.soft),
            "teacher": teacher_record["fingerprint"],
        },
        lambda: DistillTask(
            "distil",
            run.fresh("student", shape),
            teacher,
            config.soft,
            run.sampler(loop),
            run.validation,
            optimizer,
            run.parts,
        ),
    )


def _refined(
    run: Run, teacher: GeneratorModel, student: GeneratorModel, student_record: dict[str, Any]
) -> tuple[GeneratorModel, Verdict | None]:
    """Refine the student adversarially and put both before the referee."""
    config = run.config
    if config.refine_steps == 0:
        return student, None
    loop = config.loop(config.refine_steps)
    optimizer = OptimizerSettings(config.refine_rate)
    referee = Referee(run.train, run.valid, run.vocab_size, run.tokenizer.suppressed)

    def build() -> RefineTask:
        start = load_model(run.directory / "distilled")
        anchor = DistillTask(
            "anchor", start, teacher, config.soft, run.sampler(loop), run.validation, optimizer, run.parts
        )
        torch.manual_seed(step_seed(config.seed, "discriminator-initialisation", 0))
        return RefineTask(anchor, config.refine, loop.steps, referee, seed=config.seed + 1000)

    refined, _ = run.stage(
        "refined",
        config.refine_steps,
        {
            "optimizer": asdict(optimizer),
            "soft": asdict(config.soft),
            "game": asdict(config.refine),
            "student": student_record["fingerprint"],
        },
        build,
    )
    windows = consecutive_windows(run.valid, WINDOW, 32)
    nll = likelihood(student, windows).nll, likelihood(refined, windows).nll
    return refined, compare(referee, student, refined, REFEREE_SEEDS, nll)


def _prepare_corpus(config: DistillConfig, directory: Path, say: Callable[[str], object]) -> CorpusRecord:
    """Prepare the corpus unless the run holds it already."""
    record = load_record(directory)
    if record is not None and record.config == asdict(config.corpus):
        say(f"corpus: {record.source}, prepared before")
        return record
    given = Path(config.teacher) / "tokenizer.json"
    tokenizer = given.read_bytes() if given.is_file() else None
    say(f"corpus: reading {config.corpus.source}")
    record = prepare_corpus(
        config.corpus,
        config.tokenizer,
        config.vocab_size or VOCABULARIES[config.tokenizer],
        directory,
        tokenizer=tokenizer,
    )
    tokens = ", ".join(f"{name} {split.tokens:,}" for name, split in record.splits.items())
    say(
        f"corpus: {record.documents:,} documents, {record.characters:,} characters; "
        f"{record.tokenizer['kind']} tokenizer, {record.tokenizer['vocab_size']:,} ids; tokens: {tokens}"
    )
    return record


def _open_directory(config: DistillConfig, directory: Path, *, resume: bool, force: bool) -> None:
    """Refuse, clear or accept the run directory."""
    marker = directory / "config.json"
    if directory.exists() and any(directory.iterdir()):
        if not marker.exists() and not (directory / "corpus.json").exists():
            raise CheckpointError(f"{directory} exists and is not a run of edgetext; choose another --run")
        if force:
            shutil.rmtree(directory)
        elif not resume:
            raise CheckpointError(
                f"{directory} exists; continue it with --resume, replace it with --force, or "
                f"choose another --run"
            )
        elif marker.exists():
            _check_same(read_json(marker), config, directory)
    directory.mkdir(parents=True, exist_ok=True)


def _check_same(old: dict[str, Any], config: DistillConfig, directory: Path) -> None:
    """Name the first option in which a resumed run differs from what was started."""
    for name, value in config.to_dict().items():
        if name in ("checkpoint_every",) or old.get(name) == value:
            continue
        raise CheckpointError(
            f"{directory} was started with {name.replace('_', ' ')} {old.get(name)!r}, not {value!r}; "
            f"give the same options to go on, or start again with --force"
        )


def _teacher_directory(path: Path) -> Path:
    """Model directory inside a run directory, or the path itself."""
    for candidate in (path, path / "teacher", path / "student"):
        if (candidate / "model.safetensors").is_file():
            return candidate
    raise CheckpointError(
        f"{path} holds no model; --teacher takes a preset, a model directory, or a run with a trained teacher"
    )


def _versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "edgetext": edgetext.__version__,
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }
