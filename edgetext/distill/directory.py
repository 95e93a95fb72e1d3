"""The run directory: opened, continued, replaced or refused, before anything is read or trained."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgetext import __version__
from edgetext.checkpoint import MODEL_FILE, PARTIAL, read_json, write_json
from edgetext.config import DistillConfig
from edgetext.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.json"
FREE_TO_CHANGE = {"checkpoint_every", "accumulation", "shard"}
"""Options that may differ when a run is continued: the result does not depend on them."""
FLAGS = {
    "source": "corpus",
    "valid_source": "valid-corpus",
    "test_source": "test-corpus",
    "teachers": "teacher",
    "assistants": "assistant",
    "start": "from",
}
"""Options whose flag is not their own name."""
TABLES = {"recipe": "recipe", "refine": "refinement"}
"""Parts of a configuration that one option gives as a whole."""
DISTILLED = "distilled"
"""The stage that a student comes from."""
TAKEN_OVER = ("corpus.json", "tokenizer.json", "budget.json", "data", "teacher*", "assistant*", DISTILLED)
"""What a run that starts from another one has in common with it; the stage that is looked for stands last."""
AFTER_DISTILLING = {
    "refinement",
    "refine_steps",
    "refine_rate",
    "quantized_steps",
    "quantized_rate",
    "frontier",
}
"""Options in which it may differ."""


def open_run(config: DistillConfig, directory: Path, *, resume: bool, force: bool) -> None:
    """Make `directory` ready for a run with this configuration.

    Writes config.json, so that from then on the directory is known as a run, whenever it is interrupted.
    Raises CheckpointError if it holds something else, or a run that neither `resume` nor `force` covers;
    ConfigError if both are given.
    """
    if resume and force:
        raise ConfigError("--resume goes on with a run and --force deletes it; give one of them")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise CheckpointError(f"{directory} is not a directory; choose another --run")
    marker = directory / CONFIG_FILE
    if directory.exists() and any(not _is_partial(path) for path in directory.iterdir()):
        if not is_run(directory):
            raise CheckpointError(f"{directory} exists and is not a run of edgetext; choose another --run")
        if force:
            _check_not_inside(config, directory)
            shutil.rmtree(directory)
        elif not resume:
            raise CheckpointError(
                f"{directory} exists; continue it with --resume, replace it with --force, or choose another "
                f"--run"
            )
        else:
            remedy = "give the same options to go on, or start again with --force"
            _check_same(read_json(marker), config, directory, FREE_TO_CHANGE, remedy)
            for path in directory.rglob("*"):
                if _is_partial(path):  # of a process that was killed while it wrote
                    path.unlink()
            return
    try:
        write_json(marker, {**config.to_dict(), "versions": _versions()})
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be written to: {error}; choose another --run") from error


def check_start(config: DistillConfig, directory: Path, *, resume: bool) -> None:
    """Refuse to start from what is no run, has no distilled student, or was made with other options.

    A resumed run that has taken over everything needs the other no longer. Raises CheckpointError.
    """
    if config.start is None or (resume and (directory / DISTILLED / "stage.json").is_file()):
        return
    source = Path(config.start)
    if not (is_run(source) and (source / DISTILLED / "stage.json").is_file()):
        raise CheckpointError(
            f"--from {source} is not a run with a distilled student; give a directory that `edgetext "
            f"distill` filled"
        )
    remedy = "a run that starts from it has the same student: leave the option out, or do without --from"
    _check_same(
        read_json(source / CONFIG_FILE), config, source, FREE_TO_CHANGE | AFTER_DISTILLING | {"start"}, remedy
    )


def take_over(source: Path, directory: Path) -> None:
    """Put what another run made, up to its distilled student, into a run that starts from it.

    Files are shared where the file system can (none of them is ever written to again), and copied elsewhere.
    A run that was killed meanwhile goes on with what is missing.
    """
    if (directory / DISTILLED / "stage.json").is_file():
        return
    for pattern in TAKEN_OVER:
        for found in sorted(source.glob(pattern)):
            files = sorted(path for path in found.rglob("*") if path.is_file()) if found.is_dir() else [found]
            for path in sorted(files, key=lambda path: path.name == "stage.json"):  # a stage is whole with it
                place = directory / path.relative_to(source)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    _share(path, place)


def _share(path: Path, place: Path) -> None:
    """A second name for a file, or a copy of it; never a part."""
    try:
        place.hardlink_to(path)
    except OSError:
        partial = place.with_name(f".{place.name}{PARTIAL}")
        shutil.copyfile(path, partial)
        partial.replace(place)


def discard_run(directory: Path, *, begun_now: bool) -> None:
    """Remove a run that could not begin: if it was made just now, or holds nothing but its configuration."""
    if begun_now or [path.name for path in directory.iterdir() if not _is_partial(path)] == [CONFIG_FILE]:
        shutil.rmtree(directory)


def is_run(directory: Path) -> bool:
    """Whether a directory was made by `edgetext distill`."""
    marker = directory / CONFIG_FILE
    return marker.is_file() and "edgetext" in (read_json(marker).get("versions") or {})


def _is_partial(path: Path) -> bool:
    """Whether a file is one of ours that never became whole."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def find_teachers(path: Path) -> tuple[list[Path], bytes]:
    """Return the model directories and the tokenizer.json of a given teacher.

    `path` is a run (its teacher or teachers are taken, or else its student) or a model directory inside one.
    Raises CheckpointError if there is no model or no tokenizer.
    """
    several = sorted(path.glob("teacher-*"), key=lambda place: (len(place.name), place.name))
    groups = [[path], [path / "teacher"], several, [path / "student"]]
    models = next((g for g in groups if g and all(_holds_weights(p) for p in g)), None)
    if models is None:
        raise CheckpointError(
            f"{path} holds no model; give a run, a model directory inside a run, or a Hugging Face model "
            f"directory"
        )
    for place in (path, path.parent):
        if (place / "tokenizer.json").is_file():
            return models, (place / "tokenizer.json").read_bytes()
    raise CheckpointError(
        f"{path} has a model but no tokenizer.json; give the run it comes from as --teacher"
    )


def _holds_weights(path: Path) -> bool:
    """Whether a directory is a model's, whole or cut in shards."""
    return (path / MODEL_FILE).is_file() or (path / f"{MODEL_FILE}.index.json").is_file()


def stage_names(kind: str, count: int) -> list[str]:
    """Directory names of several stages of a kind: `kind` for one, `kind-1`, `kind-2`, … for more."""
    return [kind] if count == 1 else [f"{kind}-{number}" for number in range(1, count + 1)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_not_inside(config: DistillConfig, directory: Path) -> None:
    """Refuse to delete a run that the new one would be made from."""
    given = [("--teacher", teacher) for teacher in config.teachers]
    given += [("--corpus", config.corpus.source)]
    held_out = (("--valid-corpus", config.corpus.valid_source), ("--test-corpus", config.corpus.test_source))
    given += [(flag, source) for flag, source in held_out if source is not None]
    given += [(flag, v) for flag, v in (("--cache", config.cache), ("--from", config.start)) if v]
    for flag, value in given:
        source = Path(value)
        if source.exists() and source.resolve().is_relative_to(directory.resolve()):
            raise CheckpointError(
                f"{flag} {value} lies in {directory}, which --force would delete; choose another --run"
            )


def _check_same(
    old: dict[str, Any], config: DistillConfig, directory: Path, free: Collection[str], remedy: str
) -> None:
    """Name the first option, of those that are not `free`, in which a run differs from what was started."""
    before = dict(_leaves(old))
    unrefined = config.refine_steps == before.get("refine_steps") == 0
    for name, value in _leaves(config.to_dict()):
        table = TABLES.get(name.partition(".")[0])
        option = table or name.rpartition(".")[2]
        if option in free or before.get(name) == value or (table == "refinement" and unrefined):
            continue
        flag = FLAGS.get(option, option).replace("_", "-")
        was = f"another {table}" if table else f"{before.get(name)!r}, not {value!r}"
        raise CheckpointError(f"{directory} was started with --{flag} {was}; {remedy}")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of everything in nested mappings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import accelerate
    import torch

    return {
        "edgetext": __version__,
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }
