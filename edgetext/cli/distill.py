"""``edgetext distill``: the main job, from a corpus to a refined student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgetext.config import DistillConfig


@click.command(
    short_help="Corpus to student: train a teacher, distil it, refine the student.",
    context_settings={"show_default": True},
)
@click.option(
    "--corpus",
    default="builtin:python-docs",
    metavar="SOURCE",
    help=".txt, .jsonl, .csv (each also .gz), .parquet, a dataset directory, '-' for stdin.",
)
@click.option("--column", metavar="NAME", help="Column or key with the text (jsonl, csv, parquet, datasets).")
@click.option("--label-column", metavar="NAME", help="Column with every row's label, to write by label.")
@click.option(
    "--unit",
    type=click.Choice(["line", "paragraph", "document"]),
    help="What one document is.  [default: lines of plain text, rows of all else]",
)
@click.option(
    "--run",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where everything is written.  [default: runs/NAME-OF-CORPUS]",
)
@click.option("--tokenizer", type=click.Choice(["bpe", "word", "char"]), default="bpe")
@click.option(
    "--vocab-size", type=int, metavar="V", help="Most token ids.  [default: bpe 2048, word 8192, char 1024]"
)
@click.option(
    "--windows",
    type=click.Choice(["stream", "document"]),
    default="stream",
    help="Train and measure on T tokens across documents, or on one document at a time.",
)
@click.option(
    "--recipe",
    default="hinton",
    metavar="NAME|TOML",
    help="What the student learns from the teacher (`edgetext recipes`).",
)
@click.option(
    "--teacher",
    multiple=True,
    metavar="SHAPE|DIR",
    help="Shape to train (`edgetext presets`), a trained teacher or a Hugging Face model; again for an "
    "ensemble; none: no teacher.  [default: lstm-teacher]",
)
@click.option(
    "--assistant",
    multiple=True,
    metavar="SHAPE",
    help="Shape between teacher and student; again for a longer chain.",
)
@click.option(
    "--from",
    "start",
    metavar="RUN",
    help="Start from the distilled student of another run, with the options of that run.",
)
@click.option("--cache", metavar="DIR", help="Targets of `edgetext cache-targets` instead of a teacher.")
@click.option("--student", default="lstm-student", metavar="SHAPE", help="Shape of the student.")
@click.option("--budget-mb", type=float, metavar="MB", help="Largest student whose int8 bundle fits.")
@click.option("--budget-ms", type=float, metavar="MS", help="Largest student this fast per token here.")
@click.option("--teacher-steps", default=1200, metavar="N", help="Training steps of a teacher.")
@click.option("--finetune-steps", default=0, metavar="N", help="Steps on the corpus for a given teacher.")
@click.option("--distill-steps", default=1800, metavar="N", help="Training steps of the student.")
@click.option("--refine-steps", default=150, metavar="N", help="Adversarial steps; 0: none.")
@click.option(
    "--refinement",
    default="relgan",
    metavar="NAME|TOML",
    help="How the student is refined against a discriminator (`edgetext refinements`).",
)
@click.option(
    "--quantized-steps", default=0, metavar="N", help="Last steps in the arithmetic of the int8 bundle."
)
@click.option(
    "--written-tokens",
    type=int,
    metavar="N",
    help="Tokens the teacher writes, for recipes that use them.  [default: as many as the corpus]",
)
@click.option("--batch-size", default=16, metavar="B", help="Windows per step.")
@click.option("--sequence-length", default=96, metavar="T", help="Tokens per window.")
@click.option("--accumulation", default=1, metavar="N", help="Parts of a step, to save memory.")
@click.option(
    "--patience",
    default=0,
    metavar="N",
    help="Stop a training early after N validations without gain; 0: never.",
)
@click.option(
    "--temperature", type=float, metavar="T", help="Temperature of soft targets.  [default: the recipe's]"
)
@click.option(
    "--soft-weight",
    type=float,
    metavar="W",
    help="Weight of soft targets; hard ones have 1 - W.  [default: the recipe's]",
)
@click.option(
    "--label-contrast",
    type=float,
    metavar="W",
    help="With labels: weight of telling a text's own from others.  [default: 4]",
)
@click.option("--teacher-rate", default=8e-3, metavar="LR", help="Teacher's peak learning rate.")
@click.option("--finetune-rate", default=3e-4, metavar="LR", help="Peak rate of fine-tuning a teacher.")
@click.option("--student-rate", default=8e-3, metavar="LR", help="Student's peak learning rate.")
@click.option("--refine-rate", default=3e-4, metavar="LR", help="Student's peak rate in the refinement.")
@click.option("--quantized-rate", default=1e-3, metavar="LR", help="Peak rate of the last steps in int8.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    help="Arithmetic of the training; auto: bf16 where the device has units for it.",
)
@click.option("--shard", is_flag=True, help="Split teachers over the processes of a launch (FSDP).")
@click.option("--compile", is_flag=True, help="Compile the models for training (torch.compile).")
@click.option("--valid-corpus", metavar="SOURCE", help="Validation text of its own.")
@click.option("--test-corpus", metavar="SOURCE", help="Test text of its own.")
@click.option("--valid-fraction", default=0.05, metavar="P", help="Share kept for validation.")
@click.option("--test-fraction", default=0.05, metavar="P", help="Share kept for the test.")
@click.option("--split-seed", default=0, metavar="N", help="Changes which documents those are.")
@click.option("--max-document-mb", default=64.0, metavar="MB", help="A longer document is an error.")
@click.option("--frontier/--no-frontier", default=True, help="Measure temperature sweeps at the end.")
@click.option("--checkpoint-every", default=100, metavar="N", help="Steps between resumable checkpoints.")
@click.option("--seed", default=0, metavar="N", help="Same seed, same weights.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with DIR as it was started: keep finished stages, continue the rest.",
)
@click.option("--force", is_flag=True, help="Delete DIR and start again.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON line last.")
def command(directory: Path | None, as_json: bool, resume: bool, force: bool, **options: Any) -> None:
    """Take a corpus to a small generator.

    Trains a teacher (unless one is given), distils it into the student, refines the student against a
    discriminator, keeps the refined weights only if a referee finds them better, and writes everything to
    the run directory: checkpoints, metrics, result.json, report.md. Ctrl-C leaves a run that --resume
    continues.

    \b
    edgetext distill --corpus captions.txt --tokenizer word
    edgetext distill --corpus dialogue.jsonl --column reply --student transformer-student
    edgetext distill --teacher runs/mine --student lstm-student-small --run runs/mine-small
    edgetext distill --teacher lstm-teacher --teacher lstm-teacher --recipe augmented
    edgetext distill --from runs/mine --refinement resampled --run runs/mine-resampled
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json
    import sys

    from edgetext.cli._config import distill_config
    from edgetext.errors import ConfigError, EdgetextError
    from edgetext.evaluate.report import bundles, side_by_side

    if directory is None and options["start"] is not None:
        raise ConfigError("--from needs a directory for the new run; give --run DIR")
    run = directory or Path("runs") / _name(options["corpus"])
    if resume and (run / "config.json").is_file():
        options |= _as_started(run, options)
    elif options["start"] is not None:
        options |= {**_as_started(Path(options["start"]), options), "start": options["start"]}
    config = distill_config(options)
    _refuse_unused(config)
    try:
        from edgetext.distill.run import distill
        from edgetext.training.processes import is_main
    except ImportError as error:
        raise EdgetextError(f"training needs {error.name}: pip install 'edgetext[train]'") from error
    try:
        result = distill(
            config,
            run,
            resume=resume,
            force=force,
            choose=_chooser(config),
            say=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt as error:
        reason = str(error) or "interrupted"
        click.echo(f"{reason}; go on with: edgetext distill --run {run} --resume", err=True)
        sys.exit(130)
    if not is_main():
        return
    click.echo(f"\n{side_by_side(result, bundles(run))}\n")
    for text in result["samples"]:
        click.echo(f"--- sample\n{text.strip()}\n")
    click.echo(f"report: {run / 'report.md'}    next: edgetext export {run} --int8")
    if as_json:
        click.echo(json.dumps({"run": str(run), "student": result["student"], "models": result["models"]}))


def _as_started(run: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Options that were not given, as the run to be resumed was started with."""
    from edgetext.checkpoint import read_json
    from edgetext.cli._config import options_of
    from edgetext.config import DistillConfig

    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    names = [name for name in options if context.get_parameter_source(name) is not given]
    return options_of(DistillConfig.from_dict(read_json(run / "config.json")), names)


def _chooser(config: DistillConfig) -> Callable[[int, bytes], dict[str, Any]] | None:
    """What picks the student's shape by a budget, if there is one."""
    if config.budget_mb is None and config.budget_ms is None:
        return None
    if click.get_current_context().get_parameter_source("student") is click.core.ParameterSource.COMMANDLINE:
        from edgetext.errors import ConfigError

        raise ConfigError("--student names a shape and --budget-mb or --budget-ms chooses one; give either")

    def choose(vocab_size: int, tokenizer_json: bytes) -> dict[str, Any]:
        from edgetext.evaluate.likelihood import WINDOW
        from edgetext_export.budget import choose_student

        choice = choose_student(
            vocab_size,
            budget_mb=config.budget_mb,
            budget_ms=config.budget_ms,
            kind=config.recipe.student,
            tokenizer_json=tokenizer_json,
            context=max(WINDOW, config.sequence_length),
        )
        return choice.to_dict()

    return choose


def _refuse_unused(config: DistillConfig) -> None:
    """Refuse options that the others make meaningless: what is accepted is used."""
    from edgetext.errors import ConfigError
    from edgetext.models.huggingface import is_huggingface

    recipe, cached = config.recipe, config.cache is not None
    given = [Path(text).is_dir() for text in config.teachers]
    by_text = recipe.by_text_alone() and all(is_huggingface(text) for text in config.teachers)
    brings_ids = cached or (any(given) and not by_text)
    reasons = {
        "tokenizer": brings_ids and "a trained teacher or a cache brings its own",
        "vocab_size": cached and "a cache brings its own",
        "teacher_steps": (cached or all(given)) and "no teacher is trained here",
        "teacher_rate": (cached or all(given)) and "no teacher is trained here",
        "finetune_steps": not any(given) and "there is no given teacher to fine-tune",
        "finetune_rate": not config.finetune_steps and "it goes with --finetune-steps",
        "refinement": not config.refine_steps and "it goes with --refine-steps",
        "refine_rate": not config.refine_steps and "it goes with --refine-steps",
        "quantized_rate": not config.quantized_steps and "it goes with --quantized-steps",
        "written_tokens": (cached or not recipe.teacher_writes()) and "the teacher writes nothing here",
        "cache": not recipe.needs_teacher() and f"recipe {recipe.name!r} uses no teacher",
        "assistant": not recipe.needs_teacher() and f"recipe {recipe.name!r} uses no teacher",
        "label_contrast": config.corpus.label_column is None and "it goes with --label-column",
        "valid_fraction": config.corpus.valid_source is not None and "--valid-corpus gives the whole split",
        "test_fraction": config.corpus.test_source is not None and "--test-corpus gives the whole split",
    }
    context = click.get_current_context()
    for name, reason in reasons.items():
        if reason and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} has no effect: {reason}; leave it out")


def _name(source: str) -> str:
    """Run name for a corpus: its file name without endings."""
    if source == "-":
        return "stdin"
    return Path(source.removeprefix("builtin:")).name.split(".")[0] or "run"
