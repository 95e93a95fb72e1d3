"""A run's teacher: trained, given, fine-tuned, an ensemble of several, or the cache of one."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgetext.checkpoint import PARTIAL
from edgetext.config import DistillConfig
from edgetext.corpus.split import labelled_documents
from edgetext.distill.directory import find_teachers, stage_names
from edgetext.distill.given import Given, check_context, open_cache
from edgetext.distill.model_files import (
    is_finished_model,
    is_mapped,
    load_any,
    model_fingerprint,
    save_whole,
    shape_of,
)
from edgetext.distill.objective import TeacherView
from edgetext.distill.recipe import HIDDEN, Recipe
from edgetext.distill.recipes import RECIPES
from edgetext.distill.targets import CachedTargets, LiveTargets, Targets
from edgetext.distill.vocabulary import RestrictedGenerator, VocabularyMap
from edgetext.errors import ConfigError
from edgetext.models.base import GeneratorModel
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.models.huggingface import is_huggingface
from edgetext.models.presets import resolve_model
from edgetext.models.recurrent import RecurrentGenerator
from edgetext.models.transformer import TransformerGenerator
from edgetext.training.data import open_stream
from edgetext.training.processes import by_main

if TYPE_CHECKING:
    from edgetext.distill.cache import TargetCache
    from edgetext.distill.tasks import DistillTask
    from edgetext.distill.teacher_text import TeacherText
    from edgetext.distill.workspace import Workspace

VALIDATION_TOKENS = 16_384
"""Most tokens of the validation split that are read at every validation."""


@dataclass
class Teacher:
    """What a student learns from."""

    view: TeacherView
    """What of it a recipe can reach."""
    fingerprint: str
    """Changes with anything that its targets depend on."""
    model: GeneratorModel | None
    """In memory, unless its targets come from a cache."""
    cache: TargetCache | None = None
    """Its targets on disk."""
    codec: TeacherText | None = None
    """Its own ids, if it hands over text alone."""

    def written_targets(self, recipe: Recipe) -> Targets | None:
        """Return the targets of text it wrote, if they are others: a cache's."""
        if self.cache is None or self.cache.written is None or not recipe.teacher_writes():
            return None
        return CachedTargets(self.cache.written, hidden=bool(recipe.losses() & set(HIDDEN)))

    def targets(self, recipe: Recipe) -> Targets:
        """Return the source of targets for a recipe."""
        if self.cache is not None:
            return CachedTargets(self.cache, hidden=bool(recipe.losses() & set(HIDDEN)))
        if self.model is None:
            raise ConfigError("a teacher needs a model or a cache (--teacher, --cache)")
        return LiveTargets(self.model)

    @classmethod
    def of_models(cls, models: list[GeneratorModel], fingerprints: list[str]) -> Teacher:
        """One model, or an ensemble of several."""
        mark = hashlib.sha256("/".join(fingerprints).encode()).hexdigest()
        if len(models) == 1:
            own = isinstance(models[0], RecurrentGenerator | TransformerGenerator)
            return cls(TeacherView(models[0].config, own=own), fingerprints[0], models[0])
        ensemble = EnsembleGenerator(models)
        kinds = tuple(model.config.kind for model in models)
        return cls(TeacherView(ensemble.config, kinds, own=False, hidden=False), mark, ensemble)


def load_teacher(path: Path) -> GeneratorModel:
    """Return the teacher of a run (an ensemble, if it has several) or the model of a directory.

    Raises CheckpointError if there is none, ConfigError if the members of an ensemble do not fit.
    """
    models = [load_any(place) for place in find_teachers(path)[0]]
    return models[0] if len(models) == 1 else EnsembleGenerator(models)


def expected_view(config: DistillConfig, vocab_size: int) -> TeacherView | None:
    """What the teacher will offer, from shapes alone; None without a teacher.

    Lets `check_recipe` refuse a run before anything is trained.
    """
    if config.cache is not None:
        return _cache_view(open_cache(config))
    if not config.teachers:
        return None
    sources = _sources(config)
    shapes = [shape_of(s) if isinstance(s, Path) else resolve_model(s, vocab_size) for s in sources]
    for shape in shapes:
        check_context(shape, "--teacher", config)
    if len(shapes) > 1:
        return TeacherView(shapes[0], tuple(shape.kind for shape in shapes), own=False, hidden=False)
    cut = config.vocab_size is not None and config.vocab_size < shapes[0].vocab_size
    source = sources[0]
    own = isinstance(source, str) or not (cut or is_huggingface(source) or is_mapped(source))
    return TeacherView(shapes[0], own=own)


def check_cache(work: Workspace) -> None:
    """Refuse a cache that was made for something else than the run's training split. Raises ConfigError."""
    if work.config.cache is not None:
        open_cache(work.config).check(
            corpus=work.directory / "data" / "train.npy",
            tokenizer=work.corpus.tokenizer["sha256"],
            windows=work.config.windows,
            run=str(work.directory),
        )


def prepare_teacher(work: Workspace, given: Given) -> Teacher | None:
    """Train, load or open the run's teacher (a cache that `check_cache` accepts); None if it has none."""
    config = work.config
    if config.cache is not None:
        cache = open_cache(config)
        drawn = f" and {cache.manifest.tail_samples} of the rest" if cache.manifest.tail_samples else ""
        kept = f"top {cache.top_k}{drawn}"
        work.say(f"teacher: targets cached in {config.cache}, {kept}")
        return Teacher(_cache_view(cache), cache.fingerprint, None, cache)
    if given.foreign is not None:
        return _foreign(work, given.foreign)
    models: list[GeneratorModel] = []
    marks: list[str] = []
    sources = _sources(config)
    names = stage_names("teacher", len(sources))
    for name, source in zip(names, sources, strict=True):
        if isinstance(source, Path):
            model, mark = _given(work, name, source, given.maps.get(str(source)))
        else:
            model, mark = _trained(work, name, source)
        models.append(model)
        marks.append(mark)
    labels = tuple(work.corpus.labels or ())
    for name, model in zip(names, models, strict=True):
        if model.config.labels not in ((), labels):
            raise ConfigError(
                f"{name} knows the labels {', '.join(model.config.labels)}; this corpus has "
                f"{', '.join(labels) or 'none'} (--label-column): give a teacher of the same, or one without"
            )
    return Teacher.of_models(models, marks) if models else None


def _sources(config: DistillConfig) -> list[str | Path]:
    """Every teacher of the run: a shape to train, or a model directory."""
    sources: list[str | Path] = []
    for text in config.teachers:
        path = Path(text)
        sources += find_teachers(path)[0] if path.is_dir() else [text]
    return sources


def _trained(work: Workspace, name: str, text: str) -> tuple[GeneratorModel, str]:
    """Train a teacher by likelihood."""
    config, recipe = work.config, RECIPES["no-teacher"]
    shape = work.shape(text)
    model, record = work.stage(
        name,
        config.teacher_steps,
        {"model": shape.to_dict(), "rate": config.teacher_rate},
        lambda: work.task(name, work.fresh(name, shape), recipe, config.teacher_steps, config.teacher_rate),
    )
    return model, record["fingerprint"]


def _given(
    work: Workspace, name: str, source: Path, vocabulary: VocabularyMap | None
) -> tuple[GeneratorModel, str]:
    """Take a given model into the run, fine-tuned first if the configuration wants it."""
    config, directory = work.config, work.directory / name

    def read() -> GeneratorModel:
        model = load_any(source)
        if vocabulary is not None and not isinstance(model, RestrictedGenerator):
            model = RestrictedGenerator(model, vocabulary)
        return model

    if vocabulary is not None:
        work.say(
            f"{name}: {len(vocabulary.ids):,} of {vocabulary.teacher_size:,} tokens, which are "
            f"{vocabulary.coverage:.1%} of the corpus"
        )
    if config.finetune_steps:
        return _finetuned(work, name, source, vocabulary, read, work.task)

    def take() -> None:
        if not is_finished_model(directory):
            save_whole(read(), directory)

    by_main(work.accelerator, take)
    model = load_any(directory)
    if model.config.vocab_size != work.vocab_size:
        raise ConfigError(
            f"the teacher {source} has {model.config.vocab_size} token ids, its tokenizer {work.vocab_size}; "
            f"give the run that made the teacher as --teacher"
        )
    work.say(f"{name}: {source}, {model.parameters_count():,} parameters")
    return model, model_fingerprint(directory)


def _finetuned(
    work: Workspace,
    name: str,
    source: Path,
    vocabulary: VocabularyMap | None,
    read: Callable[[], GeneratorModel],
    task: Callable[..., DistillTask],
) -> tuple[GeneratorModel, str]:
    """Train a given model on the corpus."""
    config = work.config
    steps, rate = config.finetune_steps, config.finetune_rate
    model, record = work.stage(
        name,
        steps,
        {
            "start": model_fingerprint(source),
            "vocabulary": None if vocabulary is None else asdict(vocabulary),
            "rate": rate,
        },
        lambda: task(name, read(), RECIPES["no-teacher"], steps, rate),
    )
    return model, record["fingerprint"]


def _foreign(work: Workspace, source: Path) -> Teacher:
    """A Hugging Face teacher with ids of its own: fine-tuned on a stream of its own, it hands over text."""
    from edgetext.distill.teacher_text import TeacherText, write_teacher_streams
    from edgetext.models.huggingface import load_huggingface

    codec = TeacherText.open(source, load_huggingface(source).config.vocab_size)

    def read() -> GeneratorModel:
        return RestrictedGenerator(load_huggingface(source), codec.vocabulary)

    if not work.config.finetune_steps:
        model, mark = read(), model_fingerprint(source)
        work.say(f"teacher: {source}, {model.parameters_count():,} parameters; it hands over text")
    else:
        folder = work.directory / "data" / "teacher"

        def write() -> None:
            if folder.exists():
                return
            partial_folder = folder.with_name(f".{folder.name}{PARTIAL}")
            shutil.rmtree(partial_folder, ignore_errors=True)
            write_teacher_streams(partial_folder, labelled_documents(work.config.corpus), codec)
            partial_folder.replace(folder)

        by_main(work.accelerator, write)
        train, valid = (open_stream(folder / f"{split}.npy") for split in ("train", "valid"))
        windows = work.windows(valid, VALIDATION_TOKENS)
        task = partial(work.task, sampler=work.sampler(train), validation=windows)
        model, mark = _finetuned(work, "teacher", source, codec.vocabulary, read, task)
    view = TeacherView(model.config, own=False, hidden=False, dense=False)
    return Teacher(view, mark, model, codec=codec)


def _cache_view(cache: TargetCache) -> TeacherView:
    """What a recipe can reach of a cache."""
    return TeacherView(
        cache.teacher,
        own=False,
        hidden=cache.has_hidden,
        dense=False,
        writes=False,
        written=cache.written is not None,
    )
