"""From a run to a discriminator against its student, or one of its stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from edgetext.adversarial.resample import CONFIG, Rater, RaterTask, load_rater
from edgetext.adversarial.settings import MOST_PLACES, DiscriminatorConfig
from edgetext.checkpoint import MODEL_FILE, load_model, read_json, write_json
from edgetext.config import fingerprint
from edgetext.distill.directory import file_sha256
from edgetext.distill.stage import STAGE_FILE
from edgetext.errors import CheckpointError, ConfigError
from edgetext.training.data import open_stream
from edgetext.training.loop import METRICS_FILE, Interrupted, step_seed, train
from edgetext.training.processes import arithmetic, by_main, open_accelerator
from edgetext.training.resume import RESUME_FILE
from edgetext.training.settings import LoopSettings, Precision
from edgetext_runtime.tokenizer import Tokenizer

DIRECTORY = "discriminator"


def train_rater(
    run: Path,
    *,
    kind: str = "lstm-cnn",
    hidden: int = 64,
    dropout: float = 0.4,
    length: int = 40,
    steps: int = 1500,
    batch_size: int = 64,
    rate: float = 1e-3,
    patience: int = 3,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Train RUN/discriminator against RUN's accepted student; returns its record.

    Raises CheckpointError if the run has no student or its discriminator is of other settings, ConfigError if
    the options cannot work or there is a discriminator already.
    """
    if not 8 <= length <= MOST_PLACES:
        raise ConfigError(f"--length is {length}; it must be from 8 to {MOST_PLACES}")
    directory = run / DIRECTORY
    student = load_model(run / "student")
    if student.config.labels:
        raise ConfigError(f"{run} has a student with labels, which a discriminator does not see yet")
    if student.config.context and length > student.config.context:
        raise ConfigError(f"--length is {length}, the student's context {student.config.context}; lower it")
    if directory.exists() and not (resume or force):
        raise ConfigError(f"{directory} exists already; go on with --resume, or replace it with --force")
    config = DiscriminatorConfig(kind, student.config.embedding, hidden=hidden, dropout=dropout)  # type: ignore[arg-type]
    loop = rater_loop(steps, batch_size, length, patience, seed)
    task = rater_task(run, "student", config, loop, rate)
    if force:  # not before the options are known to work
        shutil.rmtree(directory, ignore_errors=True)
    return rater_stage(directory, task, loop, open_accelerator("fp32"), say)


def rater_loop(
    steps: int, batch_size: int, length: int, patience: int, seed: int, precision: Precision = "fp32"
) -> LoopSettings:
    """Loop settings of a discriminator's training."""
    return LoopSettings(
        steps=steps,
        batch_size=batch_size,
        sequence_length=length,
        warmup_steps=max(1, min(50, steps // 10)),
        validate_every=max(1, steps // 12),
        patience=patience,
        precision=precision,
        seed=seed,
    )


def rater_task(
    run: Path, stage: str, config: DiscriminatorConfig, loop: LoopSettings, rate: float
) -> RaterTask:
    """Training of a discriminator against the model in RUN/`stage`, on the texts of the run."""
    torch.manual_seed(step_seed(loop.seed, "discriminator-initialisation", 0))
    return RaterTask(
        load_model(run / stage),
        file_sha256(run / stage / MODEL_FILE),
        config,
        open_stream(run / "data" / "train.npy"),
        open_stream(run / "data" / "valid.npy"),
        length=loop.sequence_length,
        batch_size=loop.batch_size,
        rate=rate,
        suppressed=Tokenizer.from_json((run / "tokenizer.json").read_bytes()).suppressed,
        seed=loop.seed,
    )


def rater_stage(
    directory: Path,
    task: RaterTask,
    loop: LoopSettings,
    accelerator: Accelerator,
    say: Callable[[str], object],
    write: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Train a discriminator unless `directory` holds it already; returns its record.

    Raises CheckpointError if it holds another one, Interrupted after leaving a state that can be resumed.
    """
    mark = fingerprint(task.settings(), asdict(loop))
    if (directory / STAGE_FILE).exists():
        record: dict[str, Any] = read_json(directory / STAGE_FILE)
        if record["fingerprint"] != mark:
            raise CheckpointError(
                f"{directory} was made with other settings or for another student; replace it with --force"
            )
        say(f"{directory}: done before, kept")
        return record
    with arithmetic(accelerator, exact=True):  # its logits are exponents
        result = train(task, loop, directory, fingerprint=mark, accelerator=accelerator, write=write)
    best = _validation_at(directory / METRICS_FILE, result.best_step)
    scale = load_rater(directory).scale
    record = {"fingerprint": mark, **asdict(result), **best, "scale": scale, "length": loop.sequence_length}

    def finish() -> None:
        write_json(directory / STAGE_FILE, record)
        (directory / RESUME_FILE).unlink(missing_ok=True)

    by_main(accelerator, finish)
    if result.interrupted:
        raise Interrupted(f"stopped after {directory}")
    return record


def has_rater(run: Path) -> bool:
    """Whether a run has a finished discriminator."""
    return (run / DIRECTORY / STAGE_FILE).is_file() and (run / DIRECTORY / CONFIG).is_file()


def rater_of(run: Path) -> Rater:
    """The discriminator of a run. Raises CheckpointError if there is none, or it is another student's."""
    if not has_rater(run):
        raise CheckpointError(f"{run} has no discriminator; train one: edgetext discriminator {run}")
    rater = load_rater(run / DIRECTORY)
    if rater.student != file_sha256(run / "student" / MODEL_FILE):
        raise CheckpointError(
            f"{run / DIRECTORY} was trained against another student than the run's; train it again: "
            f"edgetext discriminator {run} --force"
        )
    return rater


def _validation_at(path: Path, step: int) -> dict[str, float]:
    """The validation figures of a step."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["step"] == step:
            return dict(record["validation"])
    return {}
