"""A stage of a run: trained once, found again, resumed, or refused when its settings have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetext.checkpoint import read_json, write_json
from edgetext.config import fingerprint
from edgetext.distill.model_files import load_any
from edgetext.errors import CheckpointError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from edgetext.models.base import GeneratorModel
    from edgetext.training.loop import Task
    from edgetext.training.settings import LoopSettings

STAGE_FILE = "stage.json"


def run_stage(
    directory: Path,
    settings: dict[str, Any],
    loop: LoopSettings,
    build: Callable[[], Task],
    accelerator: Accelerator,
    say: Callable[[str], object],
    write: Callable[[str], object] | None = None,
) -> tuple[GeneratorModel, dict[str, Any]]:
    """Train a stage unless `directory` holds it already; return the model (on the CPU) and its record.

    `settings` is everything the result depends on beside `loop`. A task that is ``exact`` is trained in
    float32 whatever the accelerator's precision. Raises CheckpointError if the directory
    holds a finished stage made with others, Interrupted after leaving a state that can be resumed.
    """
    from edgetext.training.loop import Interrupted, train
    from edgetext.training.processes import arithmetic, by_main
    from edgetext.training.resume import RESUME_FILE

    left_out = {"checkpoint_every", "accumulation", "shard"}  # of these, only `parts` changes the result
    relevant = {name: value for name, value in asdict(loop).items() if name not in left_out}
    parts = loop.parts(accelerator.num_processes)
    mark = fingerprint(settings, {**relevant, "parts": parts, "precision": accelerator.mixed_precision})
    path = directory / STAGE_FILE
    record = by_main(accelerator, lambda: read_json(path) if path.exists() else None)
    if record is not None:
        if record["fingerprint"] != mark:
            raise CheckpointError(
                f"{directory} was made with other settings, another corpus or another teacher; use another "
                f"--run, or start again with --force"
            )
        say(f"{directory.name}: done before ({record['steps']} steps), kept")
        return load_any(directory), record
    task = build()
    passes = loop.steps * loop.batch_size / task.windows_per_pass()
    say(
        f"{directory.name}: {loop.steps} steps of {loop.batch_size} windows, {task.tokens():,} tokens, "
        f"{passes:.1f} passes over the training split"
    )
    with arithmetic(accelerator, exact=getattr(task, "exact", False)):
        result = train(task, loop, directory, fingerprint=mark, accelerator=accelerator, write=write)
    record = {"fingerprint": mark, **asdict(result)}

    def finish() -> None:
        write_json(path, record)
        (directory / RESUME_FILE).unlink(missing_ok=True)

    by_main(accelerator, finish)
    early = "" if result.stopped == "steps" else f", stopped early at step {result.steps}"
    say(f"{directory.name}: best validation score {result.best_score:.3f} at step {result.best_step}{early}")
    if result.interrupted:
        raise Interrupted(f"stopped after {directory.name}")
    return load_any(directory), record
