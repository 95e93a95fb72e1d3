"""From a run to its discriminator, top to bottom."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edgetext.adversarial.resample import CONFIG, Rater, RaterTask, load_rater
from edgetext.adversarial.settings import MOST_PLACES, DiscriminatorConfig
from edgetext.checkpoint import MODEL_FILE, load_model, read_json, write_json
from edgetext.config import fingerprint
from edgetext.distill.directory import file_sha256
from edgetext.distill.stage import STAGE_FILE
from edgetext.errors import CheckpointError, ConfigError
from edgetext.training.data import open_stream
from edgetext.training.loop import METRICS_FILE, Interrupted, step_seed, train
from edgetext.training.processes import open_accelerator
from edgetext.training.resume import RESUME_FILE
from edgetext.training.settings import LoopSettings
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
    if student.config.context and length > student.config.context:
        raise ConfigError(f"--length is {length}, the student's context {student.config.context}; lower it")
    if directory.exists() and not (resume or force):
        raise ConfigError(f"{directory} exists already; go on with --resume, or replace it with --force")
    embedding = student.config.embedding
    config = DiscriminatorConfig(kind, embedding, hidden=hidden, dropout=dropout)  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_json((run / "tokenizer.json").read_bytes())
    loop = LoopSettings(
        steps=steps,
        batch_size=batch_size,
        sequence_length=length,
        warmup_steps=max(1, min(50, steps // 10)),
        validate_every=max(1, steps // 12),
        patience=patience,
        precision="fp32",
        seed=seed,
    )
    torch.manual_seed(step_seed(seed, "discriminator-initialisation", 0))
    task = RaterTask(
        student,
        file_sha256(run / "student" / MODEL_FILE),
        config,
        open_stream(run / "data" / "train.npy"),
        open_stream(run / "data" / "valid.npy"),
        length=length,
        batch_size=batch_size,
        rate=rate,
        suppressed=tokenizer.suppressed,
        seed=seed,
    )
    if force:  # not before the options are known to work
        shutil.rmtree(directory, ignore_errors=True)
    mark = fingerprint(task.settings(), asdict(loop))
    if (directory / STAGE_FILE).exists():
        record: dict[str, Any] = read_json(directory / STAGE_FILE)
        if record["fingerprint"] != mark:
            raise CheckpointError(
                f"{directory} was made with other settings or for another student; replace it with --force"
            )
        say(f"{directory}: done before, kept")
        return record
    result = train(task, loop, directory, fingerprint=mark, accelerator=open_accelerator("fp32"))
    best = _validation_at(directory / METRICS_FILE, result.best_step)
    scale = load_rater(directory).scale
    record = {"fingerprint": mark, **asdict(result), **best, "scale": scale, "length": length}
    write_json(directory / STAGE_FILE, record)
    (directory / RESUME_FILE).unlink(missing_ok=True)
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
