"""The main job, top to bottom: corpus → teacher → distilled student → refined student → report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgetext.adversarial.contest import Contest
from edgetext.adversarial.refine import RefineTask
from edgetext.adversarial.resample import load_rater
from edgetext.adversarial.residual import ResidualTask
from edgetext.adversarial.train_rater import rater_loop, rater_stage, rater_task
from edgetext.checkpoint import MODEL_FILE, load_model, read_json, save_model, write_json
from edgetext.config import DistillConfig
from edgetext.corpus.sources import source_kind
from edgetext.distill.directory import (
    check_start,
    discard_run,
    file_sha256,
    open_run,
    stage_names,
    take_over,
)
from edgetext.distill.given import check_context, read_given
from edgetext.distill.matching import copy_layers
from edgetext.distill.objective import TeacherView, check_recipe
from edgetext.distill.recipe import Recipe
from edgetext.distill.teachers import Teacher, check_cache, expected_view, prepare_teacher
from edgetext.distill.workspace import Workspace
from edgetext.distill.written import written_stream
from edgetext.errors import ConfigError, EdgetextError
from edgetext.evaluate.frontier import Referee, Verdict, compare
from edgetext.evaluate.likelihood import likelihood
from edgetext.evaluate.report import write_report
from edgetext.evaluate.summary import EVALUATION_TOKENS, summarise
from edgetext.models import ModelConfig
from edgetext.models.base import GeneratorModel
from edgetext.models.presets import resolve_model
from edgetext.training.data import Sampler
from edgetext.training.loop import step_seed
from edgetext.training.processes import by_main, open_accelerator
from edgetext.training.quantized import QuantizedGenerator

OPPONENT = "opponent"
"""Stage of the discriminator that the refinement `resampled` learns from."""
OPPONENT_TEXTS = 64
"""Texts of each side that it sees in a step."""
BUDGET_FILE = "budget.json"
VERDICT_SEEDS, VERDICT_TEXTS = tuple(range(1, 6)), 1000
"""Sample sets, and texts of each, on which the refined student is judged; none is looked at before."""
PLAIN_TEXT = {".txt", ".txt.gz", "stdin", "builtin"}
"""Kinds of sources that have no columns."""
ANY_VOCABULARY = 1000
"""Vocabulary size with which shapes are checked before the tokenizer is known."""


def distill(
    config: DistillConfig,
    directory: Path,
    *,
    resume: bool = False,
    force: bool = False,
    choose: Callable[[int, bytes], dict[str, Any]] | None = None,
    say: Callable[[str], object] = lambda line: None,
    write: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Take a corpus to a refined student; returns what `result.json` holds.

    `choose`, if given, is asked once for the student's shape (`spec`, with a `reason` and a `table`) when the
    vocabulary size and tokenizer.json are known. `say` gets one line per event; `write`, if given, gets plain
    progress lines instead of a live bar. An existing run is refused unless `resume` (finished stages are
    kept, an unfinished one goes on) or `force` (it is deleted). Raises ConfigError, CorpusError or
    CheckpointError.
    """
    accelerator = open_accelerator(config.precision)
    if not accelerator.is_main_process:
        say = _silent
    config.loop(1).parts(accelerator.num_processes)  # refuses a batch that does not divide
    _check_inputs(config)
    check_start(config, directory, resume=resume)
    by_main(accelerator, lambda: open_run(config, directory, resume=resume, force=force))
    try:
        if config.start is not None:
            start = Path(config.start)
            by_main(accelerator, lambda: take_over(start, directory))
        given = by_main(accelerator, lambda: read_given(config))
        work = Workspace(config, directory, given.tokenizer, accelerator, say, write)
        by_main(accelerator, lambda: check_cache(work))
    except EdgetextError:
        by_main(accelerator, lambda: discard_run(directory, begun_now=not resume))
        raise

    if choose is not None:
        work.config = config = replace(config, student=_chosen(work, choose))
    shape = work.shape(config.student)
    if choose is not None:
        _check_chosen(config, shape)
    teacher = prepare_teacher(work, given)
    for name, text in zip(stage_names("assistant", len(config.assistants)), config.assistants, strict=True):
        teacher = _assistant(work, name, work.shape(text), teacher)
    student, mark = _distilled(work, "distilled", shape, teacher)
    refined, verdict = _refined(work, teacher, student, mark)
    accepted = "refined" if verdict is not None and verdict.accepted else "distilled"
    if verdict is not None:
        say("student: " + verdict.reason)
    student = _quantized(work, teacher, accepted, refined if accepted == "refined" else student)

    def finish() -> dict[str, Any]:
        save_model(directory / "student", student)
        result = summarise(work, teacher, verdict)
        write_report(directory)
        return result

    return by_main(accelerator, finish)


def _silent(line: str) -> None:
    """Say nothing: what all processes but the main one do."""


def _chosen(work: Workspace, choose: Callable[[int, bytes], dict[str, Any]]) -> str:
    """The shape that a budget chose, now or when the run was started."""
    path = work.directory / BUDGET_FILE

    def settle() -> dict[str, Any]:
        if not path.exists():
            choice = choose(work.vocab_size, (work.directory / "tokenizer.json").read_bytes())
            write_json(path, choice)
            work.say(str(choice["table"]))
        settled: dict[str, Any] = read_json(path)
        return settled

    choice = by_main(work.accelerator, settle)
    work.say(f"budget: {choice['reason']}")
    return str(choice["spec"])


def _check_chosen(config: DistillConfig, shape: ModelConfig) -> None:
    """Refuse a recipe that cannot work with the shape that the budget chose."""
    view = expected_view(config, shape.vocab_size)
    for text in config.assistants:
        view = TeacherView(resolve_model(text, shape.vocab_size))
    check_recipe(config.recipe, shape, view)


def _check_inputs(config: DistillConfig) -> None:
    """Refuse what cannot work before anything is written or deleted."""
    kind = source_kind(config.corpus)
    for source in (config.corpus.valid_source, config.corpus.test_source):
        if source is not None:
            source_kind(replace(config.corpus, source=source, valid_source=None, test_source=None))
    for flag, column in (("--column", config.corpus.column), ("--label-column", config.corpus.label_column)):
        if column is not None and kind in PLAIN_TEXT:
            raise ConfigError(
                f"{flag} goes with tables, but {config.corpus.source} is plain text; leave it out"
            )
    shapes = [("--teacher", text) for text in config.teachers if not Path(text).is_dir()]
    shapes += [("--assistant", text) for text in config.assistants] + [("--student", config.student)]
    for flag, text in shapes:
        check_context(resolve_model(text, ANY_VOCABULARY), flag, config)
    view = expected_view(config, ANY_VOCABULARY)
    chosen_later = config.budget_mb is not None or config.budget_ms is not None
    links = (*config.assistants, *(() if chosen_later else (config.student,)))
    for text in links:
        shape = resolve_model(text, view.config.vocab_size if view else ANY_VOCABULARY)
        check_recipe(config.recipe, shape, view)
        view = TeacherView(shape)


def _assistant(work: Workspace, name: str, shape: ModelConfig, teacher: Teacher | None) -> Teacher:
    """Distil the teacher into an assistant, which is the teacher from then on (Mirzadeh et al. 2020)."""
    model, mark = _distilled(work, name, shape, teacher)
    return Teacher.of_models([model], [mark])


def _distilled(
    work: Workspace, name: str, shape: ModelConfig, teacher: Teacher | None
) -> tuple[GeneratorModel, str]:
    """Train a student of a shape by the run's recipe; returns it and the fingerprint of its stage."""
    config, recipe = work.config, work.config.recipe
    if not recipe.needs_teacher():
        teacher = None
    check_recipe(recipe, shape, teacher.view if teacher else None)
    settings: dict[str, Any] = {
        "model": shape.to_dict(),
        "rate": config.student_rate,
        "recipe": recipe.to_dict()["phases"],
        "initialise": recipe.initialise,
        "teacher": teacher.fingerprint if teacher else None,
        "written": config.written_tokens if recipe.teacher_writes() else None,
    }

    def build() -> Any:
        student = work.fresh("student" if name == "distilled" else name, shape)
        if recipe.initialise == "copy" and teacher is not None and teacher.model is not None:
            copy_layers(student, teacher.model)
        written = _written(work, name, recipe, teacher)
        stage = "distil" if name == "distilled" else name
        return work.task(stage, student, recipe, config.distill_steps, config.student_rate, teacher, written)

    model, record = work.stage(name, config.distill_steps, settings, build)
    return model, record["fingerprint"]


def _written(work: Workspace, name: str, recipe: Recipe, teacher: Teacher | None) -> Sampler | None:
    """Rows of the text that the teacher wrote for a stage, if the recipe uses such."""
    if teacher is None or not recipe.teacher_writes():
        return None
    return work.sampler(written_stream(work, name, teacher))


def _refined(
    work: Workspace, teacher: Teacher | None, student: GeneratorModel, mark: str
) -> tuple[GeneratorModel, Verdict | None]:
    """Refine the student adversarially and put both before the referee."""
    config = work.config
    if config.refine_steps == 0:
        return student, None
    recipe = config.recipe.anchor()
    referee = Referee(work.train, work.valid, work.vocab_size, work.tokenizer.suppressed)

    def build() -> Contest:
        start = load_model(work.directory / "distilled")
        written = _written(work, "distilled", recipe, teacher)
        steps, rate = config.refine_steps, config.refine_rate
        anchor = work.task("anchor", start, recipe, steps, rate, teacher, written)
        seed = config.seed + 1000
        if config.refine.gradient == "resampled":
            return ResidualTask(anchor, config.refine, load_rater(work.directory / OPPONENT), referee, seed)
        torch.manual_seed(step_seed(config.seed, "discriminator-initialisation", 0))
        return RefineTask(anchor, config.refine, config.refine_steps, referee, seed)

    if config.refine.gradient == "resampled":
        _trained_opponent(work, student)
    refined, _ = work.stage(
        "refined",
        config.refine_steps,
        {
            "rate": config.refine_rate,
            "anchor": recipe.to_dict()["phases"],
            "game": config.refine.to_dict(),
            "student": mark,
        },
        build,
        stops_early=False,  # its rate falls to the end, and the best state is kept in any case
    )
    work.say("refined: judging quality and diversity of fresh samples")
    windows = work.windows(work.valid, EVALUATION_TOKENS)
    for model in (student, refined):
        model.to(work.device)

    def judge() -> Verdict:
        nll = likelihood(student, windows).nll, likelihood(refined, windows).nll
        final = Referee(work.train, work.valid, work.vocab_size, work.tokenizer.suppressed, VERDICT_TEXTS)
        return compare(final, student, refined, VERDICT_SEEDS, nll)

    return refined, by_main(work.accelerator, judge)


def _trained_opponent(work: Workspace, student: GeneratorModel) -> None:
    """Train a discriminator against the distilled student, which stands still."""
    config, rules = work.config, work.config.refine
    shape = rules.discriminator.against(student.config.embedding)
    loop = rater_loop(
        *(rules.discriminator_warmup, OPPONENT_TEXTS, rules.length, config.patience, config.seed),
        config.precision,
    )
    task = rater_task(work.directory, "distilled", shape, loop, rules.discriminator_rate)
    record = rater_stage(work.directory / OPPONENT, task, loop, work.accelerator, work.say, work.write)
    work.say(f"{OPPONENT}: tells {record['told_apart']:.1%} of held-out pairs of texts apart")


def _quantized(
    work: Workspace, teacher: Teacher | None, accepted: str, student: GeneratorModel
) -> GeneratorModel:
    """Go on training the accepted student in the arithmetic of its int8 bundle."""
    config, start = work.config, work.directory / accepted
    if config.quantized_steps == 0:
        return student
    recipe = config.recipe.anchor()

    def build() -> Any:
        model = load_model(start)
        return work.task(
            "quantized",
            model,
            recipe,
            config.quantized_steps,
            config.quantized_rate,
            teacher if recipe.needs_teacher() else None,
            _written(work, "distilled", recipe, teacher),
            module=QuantizedGenerator(model),
        )

    settings = {
        "rate": config.quantized_rate,
        "recipe": recipe.to_dict()["phases"],
        "student": file_sha256(start / MODEL_FILE),
        "teacher": teacher.fingerprint if teacher else None,
    }
    return work.stage("quantized", config.quantized_steps, settings, build)[0]
