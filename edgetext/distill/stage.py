"""A stage of a run: trained once, found again, resumed, or refused when its settings have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetext.checkpoint import load_model, read_json, write_json
from edgetext.config import fingerprint
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

    `settings` is everything the result depends on. Raises CheckpointError if the directory holds a finished
    stage made with others.
    """
    from edgetext.training.loop import train

    mark = fingerprint(settings, asdict(loop))
    path = directory / STAGE_FILE
    if path.exists():
        record = read_json(path)
        if record["fingerprint"] != mark:
            raise CheckpointError(
                f"{directory} was made with other settings or another corpus; use another --run, or start "
                f"again with --force"
            )
        say(f"{directory.name}: done before ({record['steps']} steps), kept")
        return load_model(directory), record
    say(f"{directory.name}: {loop.steps} steps of {loop.batch_size} × {loop.sequence_length} tokens")
    result = train(build(), loop, directory, fingerprint=mark, accelerator=accelerator, write=write)
    record = {"fingerprint": mark, **asdict(result)}
    write_json(path, record)
    return load_model(directory), record
