"""The job behind `edgetext cache-targets`: teachers and a prepared corpus in, a cache of targets out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgetext.checkpoint import CONFIG_FILE, read_json
from edgetext.corpus import load_record
from edgetext.distill.cache import (
    WRITTEN_DIRECTORY,
    WRITTEN_STREAM,
    TargetCache,
    stream_fingerprint,
    teacher_fingerprints,
)
from edgetext.distill.cache_format import TOKENIZER_FILE, CacheSettings, Origin
from edgetext.distill.cache_writer import write_cache
from edgetext.distill.directory import file_sha256, find_teachers, is_run
from edgetext.distill.given import is_raw_huggingface
from edgetext.distill.teachers import load_teacher
from edgetext.distill.vocabulary import VOCABULARY_FILE
from edgetext.distill.written import LONGEST, drawn_texts, write_texts
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.base import GeneratorModel
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.data import open_stream
from edgetext.training.processes import resolve_precision
from edgetext.training.progress import TrainingProgress
from edgetext_runtime.tokenizer import Tokenizer

TEACHER_STREAMS = Path("data", "teacher")
"""Where a run keeps its corpus in the ids of a teacher that hands over text alone."""


@dataclass(frozen=True)
class CacheReport:
    """What `edgetext cache-targets` says at the end."""

    directory: str
    positions: int
    """N, tokens with targets."""
    top_k: int
    """K."""
    tail_samples: int
    """S."""
    windows: str
    context: int
    """C; 0 where a recurrent state was carried."""
    precision: str
    bytes: int
    """On disk, everything included."""
    bytes_per_token: float
    tail_mass: float
    """Mean probability that the K tokens leave out."""
    hidden: tuple[int, ...]
    """Widths of the hidden states that were kept."""
    written: int
    """Tokens of the teacher's own text with targets; 0 without such."""


def cache_targets(
    teachers: Sequence[Path],
    run: Path,
    directory: Path,
    settings: CacheSettings,
    *,
    written_tokens: int = 0,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], object] = lambda line: None,
    write: Callable[[str], object] | None = None,
) -> CacheReport:
    """Cache the targets of a teacher, or of the mean of several, for the training split of `run`.

    With `written_tokens` the teacher also writes so much text, which is cached with its targets: recipes that
    use text of the teacher then work from the cache. `say` gets one line per event; `write`, if given, gets
    plain progress lines instead of a live bar. Raises ConfigError or CheckpointError when teacher, run and
    directory do not go together, before anything is written or deleted.
    """
    record = load_record(run)
    if record is None:
        raise CheckpointError(
            f"{run} holds no prepared corpus (corpus.json); give a run of `edgetext distill`"
        )
    origin = Origin(
        run=str(run),
        corpus=stream_fingerprint(run),
        tokenizer=file_sha256(run / TOKENIZER_FILE),
        teachers=tuple(str(path) for path in teachers),
        weights=tuple(mark for path in teachers for mark in teacher_fingerprints(path)),
    )
    _check_not_inside([*teachers, run], directory)
    given = [load_teacher(path) for path in teachers]
    if any(model.config.labels for model in given):
        raise ConfigError("a cache holds no labels, and this teacher has some; distil with --teacher instead")
    for path, model in zip(teachers, given, strict=True):
        _check_vocabulary(path, model, record.tokenizer["vocab_size"], origin.tokenizer, run)
    if settings.context is None:
        settings = replace(settings, context=_trained_length(teachers, given))
    models = [member for model in given for member in _members(model)]
    teacher = models[0] if len(models) == 1 else EnsembleGenerator(models)
    teacher.to(_device())
    say(
        f"targets: {len(models)} teacher{'s' if len(models) > 1 else ''}, {teacher.parameters_count():,} "
        f"parameters; {record.splits['train'].tokens - 1:,} positions"
    )
    tokenizer = (run / TOKENIZER_FILE).read_bytes()
    job = partial(_write_cache, teacher, settings=settings, tokenizer=tokenizer, write=write)
    job(open_stream(run / "data" / "train.npy"), directory, origin=origin, resume=resume, force=force)
    if written_tokens:
        stream, inner = directory / WRITTEN_STREAM, directory / WRITTEN_DIRECTORY
        if not stream.exists():
            length = read_json(run / CONFIG_FILE).get("sequence_length") if is_run(run) else None
            _write_text(teacher, stream, tokenizer, settings, written_tokens, length or 96, say)
        origin = replace(origin, corpus=file_sha256(stream))
        job(open_stream(stream), inner, origin=origin, resume=inner.exists(), force=False)
    return report(TargetCache.open(directory))


def _write_cache(
    teacher: GeneratorModel,
    stream: NDArray[np.unsignedinteger],
    directory: Path,
    *,
    settings: CacheSettings,
    origin: Origin,
    tokenizer: bytes,
    resume: bool,
    force: bool,
    write: Callable[[str], object] | None,
) -> None:
    """Fill one directory, with progress on the terminal."""
    bar: TrainingProgress | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:  # nothing is shown before the directory was accepted
            bar = TrainingProgress("targets", total, done, write).__enter__()
        elif done > bar.step:
            bar.update(done, done - bar.first, {})

    try:
        write_cache(
            teacher,
            stream,
            directory,
            settings,
            origin=origin,
            tokenizer=tokenizer,
            resume=resume,
            force=force,
            progress=progress,
        )
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


def _write_text(
    teacher: GeneratorModel,
    path: Path,
    tokenizer: bytes,
    settings: CacheSettings,
    wanted: int,
    length: int,
    say: Callable[[str], object],
) -> None:
    """Let the teacher write text for the cache, in the arithmetic of its targets."""
    device = next(teacher.parameters()).device
    bf16 = resolve_precision(settings.precision, device) == "bf16"
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)
    longest = LONGEST * length
    if teacher.config.context:
        longest = min(longest, teacher.config.context - 1)
    coder = Tokenizer.from_json(tokenizer)
    texts = drawn_texts(teacher, coder, longest, 0, autocast)
    write_texts(path, coder, texts, wanted, longest, settings.windows == "document", say)


def report(cache: TargetCache) -> CacheReport:
    """Sum a cache up."""
    manifest = cache.manifest
    written = cache.written.positions if cache.written is not None else 0
    return CacheReport(
        directory=str(cache.directory),
        positions=manifest.positions,
        top_k=manifest.top_k,
        tail_samples=manifest.tail_samples,
        windows=manifest.windows,
        context=manifest.context,
        precision=manifest.precision,
        bytes=cache.size,
        bytes_per_token=cache.size / (manifest.positions + written),
        tail_mass=cache.tail_mass(),
        hidden=manifest.hidden,
        written=written,
    )


def _device() -> torch.device:
    """The device that training would use. Raises ConfigError under a launcher of several processes."""
    import accelerate

    state = accelerate.PartialState()
    if state.num_processes > 1:
        raise ConfigError(
            f"targets are cached by one process, not by {state.num_processes}; start it without a launcher"
        )
    return state.device


def _check_vocabulary(path: Path, model: GeneratorModel, vocab_size: int, tokenizer: str, run: Path) -> None:
    """A teacher, every model of it, must speak in the token ids of the run."""
    if model.config.vocab_size != vocab_size:
        raise ConfigError(
            f"{path} has {model.config.vocab_size} token ids, the tokenizer of {run} {vocab_size}; give "
            f"as --run a run that was made with this teacher or its tokenizer"
        )
    places, own = find_teachers(path)
    for place in places:
        if is_raw_huggingface(place):
            raise ConfigError(
                f"{place} has token ids of its own; give the run that took it as its teacher, which holds it "
                f"with a map to the ids of its tokenizer"
            )
        if (place.parent / TEACHER_STREAMS).exists():
            raise ConfigError(
                f"the teacher of {place.parent} has token ids of its own and hands over text alone; give a "
                f"teacher that shares the run's tokenizer"
            )
        coded = _mapped_tokenizer(place) if (place / VOCABULARY_FILE).is_file() else own
        if hashlib.sha256(coded).hexdigest() != tokenizer:
            raise ConfigError(
                f"{path} has another tokenizer than {run}; give as --run a run that was made with this "
                f"teacher or its tokenizer"
            )


def _mapped_tokenizer(place: Path) -> bytes:
    """tokenizer.json of the ids that a mapped model is read by: the run's, not one beside the model."""
    path = place.parent / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{place} is read through a vocabulary map, but {path} is missing; give the run it comes from"
        )
    return path.read_bytes()


def _members(teacher: GeneratorModel) -> list[GeneratorModel]:
    """The models of a teacher: every one has the same weight in the mean, whichever run it is from."""
    return teacher.members() if isinstance(teacher, EnsembleGenerator) else [teacher]


def _trained_length(teachers: Sequence[Path], models: Sequence[GeneratorModel]) -> int | None:
    """Shortest window that a Transformer among the teachers was trained on, where their runs tell.

    Beyond it a Transformer has never attended; a recurrent teacher has no such limit.
    """
    lengths = []
    for path, model in zip(teachers, models, strict=True):
        limits = [member.config.context for member in _members(model) if member.config.context]
        if not limits:
            continue
        runs = [place for place in (path, path.parent) if is_run(place)]
        length = read_json(runs[0] / CONFIG_FILE).get("sequence_length") if runs else None
        lengths.append(min([*limits, length] if isinstance(length, int) else limits))
    return min(lengths, default=None)


def _check_not_inside(sources: Sequence[Path], directory: Path) -> None:
    """Refuse to replace a directory that holds what the cache is made from."""
    for source in sources:
        if source.resolve().is_relative_to(directory.resolve()):
            raise CheckpointError(f"{source} lies in {directory}; choose another -o")
