"""``edgetext sweep``: many runs from one plan, stopped and continued at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgetext.sweep.plan import Job, Option

TABLE = "compare.md"


@click.command(short_help="Run a plan of many runs, resumably, and compare them.")
@click.argument("plan", type=click.Path(path_type=Path), metavar="PLAN.toml")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory of all runs."
)
@click.option("--only", multiple=True, metavar="NAME", help="This entry and what it needs (repeatable).")
@click.option(
    "--jobs", "slots", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time."
)
@click.option("--dry-run", is_flag=True, help="Print the commands that are left, and run none.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON line last.")
def command(plan: Path, out: Path, only: tuple[str, ...], slots: int, dry_run: bool, as_json: bool) -> None:
    """Run every entry of PLAN: `edgetext distill` and `edgetext export --int8`, or `edgetext cache-targets`.

    Stop it at any moment (Ctrl-C, kill) and give the same command to go on: what is finished is kept, what
    was begun is resumed. Every run has its directory in --out and its log in --out/logs; --out/compare.md
    compares those that are finished. Runs at a time share the cores, so their training times mean little.

    \b
    seeds = [0, 1, 2]                      for every distillation that names none
    [base]                                 options of distill and export, without dashes
    corpus = "captions.txt"
    tokenizer = "word"
    [[runs]]
    name = "teacher"                       {out}/teacher-seed0 and so on
    recipe = "no-teacher"
    student = "lstm-teacher"
    export = false
    [[runs]]
    name = "hinton"
    teacher = "{out}/teacher-seed{seed}"   waits for that run, and brings its tokenizer:
    tokenizer = false                      leaves out what the base gives
    [[runs]]
    name = "cache"
    command = "cache-targets"
    teacher = ["{out}/teacher-seed0", "{out}/teacher-seed1"]
    run = "{out}/teacher-seed0"
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json
    import shlex
    import sys

    from edgetext.checkpoint import write_atomic
    from edgetext.evaluate.compare_report import markdown_page, terminal_table
    from edgetext.sweep.plan import chosen, read_plan
    from edgetext.sweep.runner import commands_left, compare_finished, run_sweep

    jobs = read_plan(plan, known_options())
    _check_values(jobs)
    selected = chosen(jobs, only)
    if dry_run:
        for job in selected:
            left = commands_left(job, out)
            click.echo(f"# {job.name}" + ("" if left else ": finished"))
            for arguments in left:
                click.echo(shlex.join(["edgetext", *arguments]))
        return
    again = shlex.join(["edgetext", "sweep", str(plan), "--out", str(out)])
    try:
        result = run_sweep(selected, out, slots=slots, say=lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        click.echo(f"stopped; go on with: {again}", err=True)
        sys.exit(130)
    sets = compare_finished(jobs, out)
    if sets:
        pages = [markdown_page(groups, again) for groups in sets]
        write_atomic(out / TABLE, "\n".join(pages).encode())
        click.echo("\n\n".join(terminal_table(groups) for groups in sets))
        click.echo(f"\ntable: {out / TABLE}")
    if as_json:
        tables = [[group.to_dict() for group in groups] for groups in sets]
        click.echo(json.dumps({**vars(result), "tables": tables}))
    if result.failed:
        click.echo(f"failed: {', '.join(result.failed)}; try again with: {again}", err=True)
        sys.exit(1)


def known_options() -> dict[str, dict[str, Option]]:
    """Return the options of the commands that a plan may use, as those commands define them."""
    import importlib

    from edgetext.cli import COMMANDS
    from edgetext.sweep.plan import CACHING, EXPORTING, TRAINING

    found = {}
    for name in (TRAINING, EXPORTING, CACHING):
        if name in COMMANDS:
            module = importlib.import_module(f"edgetext.cli.{name.replace('-', '_')}")
            found[name] = _options(module.command)
    return found


def _options(target: click.Command) -> dict[str, Option]:
    """The options of one command by their names, its arguments by what help calls them."""
    from edgetext.sweep.plan import Option

    options = {}
    for parameter in target.params:
        if isinstance(parameter, click.Option):
            long = [flag for flag in parameter.opts if flag.startswith("--")]
            off = parameter.secondary_opts[0] if parameter.secondary_opts else None
            for flag in long:
                options[flag.removeprefix("--")] = Option(
                    flag, not parameter.is_flag, parameter.multiple or parameter.nargs != 1, off
                )
        elif target.name != "export":  # its argument is the run, which the sweep gives
            name = (parameter.metavar or parameter.name or "").strip(".…[]").lower()
            options[name] = Option(None, True, parameter.nargs != 1)
    return options


def _check_values(jobs: Sequence[Job]) -> None:
    """Let every command read its options. Raises ConfigError naming the entry."""
    import importlib

    from edgetext.errors import ConfigError

    for job in jobs:
        for step in job.steps:
            module = importlib.import_module(f"edgetext.cli.{step.command.replace('-', '_')}")
            try:
                module.command.make_context(step.command, list(step.arguments[1:]))
            except click.UsageError as error:
                raise ConfigError(f"entry {job.entry!r}: {error.format_message()}") from error
