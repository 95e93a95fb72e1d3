"""``edgetext distill``: the main job, from a corpus to a refined student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


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
    "--teacher",
    default="lstm-teacher",
    metavar="SHAPE|DIR",
    help="Shape to train (`edgetext presets`), or a directory with a trained teacher.",
)
@click.option("--student", default="lstm-student", metavar="SHAPE", help="Shape of the student.")
@click.option("--teacher-steps", default=1200, metavar="N", help="Training steps of the teacher.")
@click.option("--distill-steps", default=1800, metavar="N", help="Training steps of the student.")
@click.option("--refine-steps", default=150, metavar="N", help="Adversarial steps; 0: none.")
@click.option("--batch-size", default=16, metavar="B", help="Windows per step.")
@click.option("--sequence-length", default=96, metavar="T", help="Tokens per window.")
@click.option("--accumulation", default=1, metavar="N", help="Parts of a step, to save memory.")
@click.option(
    "--patience",
    default=0,
    metavar="N",
    help="Stop a training early after N validations without gain; 0: never.",
)
@click.option("--temperature", default=1.0, metavar="T", help="Temperature of the soft targets.")
@click.option(
    "--soft-weight",
    default=0.9,
    metavar="W",
    help="Weight of the soft targets; the hard ones have 1 - W.",
)
@click.option("--teacher-rate", default=8e-3, metavar="LR", help="Teacher's peak learning rate.")
@click.option("--student-rate", default=8e-3, metavar="LR", help="Student's peak learning rate.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    help="Arithmetic of the training; auto: bf16 where the device has units for it.",
)
@click.option("--valid-fraction", default=0.05, metavar="P", help="Share kept for validation.")
@click.option("--test-fraction", default=0.05, metavar="P", help="Share kept for the test.")
@click.option("--split-seed", default=0, metavar="N", help="Changes which documents those are.")
@click.option("--max-document-mb", default=64.0, metavar="MB", help="A longer document is an error.")
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
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json
    import sys

    from edgetext.cli._config import distill_config
    from edgetext.errors import EdgetextError
    from edgetext.evaluate.report import bundles, side_by_side

    run = directory or Path("runs") / _name(options["corpus"])
    if resume and (run / "config.json").is_file():
        options |= _as_started(run, options)
    if Path(options["teacher"]).is_dir():
        _refuse_unused("tokenizer", "vocab_size", "teacher_steps", "teacher_rate")
    config = distill_config(options)
    try:
        from edgetext.distill.run import distill
    except ImportError as error:
        raise EdgetextError(f"training needs {error.name}: pip install 'edgetext[train]'") from error
    try:
        result = distill(config, run, resume=resume, force=force, say=lambda line: click.echo(line, err=True))
    except KeyboardInterrupt as error:
        reason = str(error) or "interrupted"
        click.echo(f"{reason}; go on with: edgetext distill --run {run} --resume", err=True)
        sys.exit(130)
    click.echo(f"\n{side_by_side(result, bundles(run))}\n")
    for text in result["samples"]:
        click.echo(f"--- sample\n{text.strip()}\n")
    click.echo(f"report: {run / 'report.md'}    next: edgetext export {run} --int8")
    if as_json:
        click.echo(json.dumps({"run": str(run), "student": result["student"], "models": result["models"]}))


def _as_started(run: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Options that were not given, as the run to be resumed was started with."""
    from edgetext.checkpoint import read_json

    stored = read_json(run / "config.json")
    values = {**stored, **stored.get("soft", {}), **stored.get("corpus", {})}
    values["corpus"] = values.pop("source", options["corpus"])
    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    return {
        name: values[name]
        for name in options
        if name in values and context.get_parameter_source(name) is not given
    }


def _refuse_unused(*names: str) -> None:
    """Refuse options that a given teacher makes meaningless."""
    from edgetext.errors import ConfigError

    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} has no effect with a trained teacher, which brings its own; leave it out"
            )


def _name(source: str) -> str:
    """Run name for a corpus: its file name without endings."""
    if source == "-":
        return "stdin"
    return Path(source.removeprefix("builtin:")).name.split(".")[0] or "run"
