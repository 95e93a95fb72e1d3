"""``edgetext compare``: runs side by side, over seeds and against the baseline."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Compare runs: recipes over seeds, against the baseline without a teacher.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the table as Markdown."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw it (.png, .svg, .pdf).",
)
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line with all figures at the end.")
def command(
    runs: tuple[Path, ...], output: Path | None, plot: Path | None, force: bool, as_json: bool
) -> None:
    """Compare finished and exported runs, lowest test perplexity first.

    Runs that differ in nothing but their seed form one row: mean ± standard deviation. Perplexities are those
    of RUN/student-int8.etx, written by `edgetext export RUN --int8`. Rows gain over the student of the same
    shape trained with --recipe no-teacher. Runs on other text, splits, tokenizers or protocols are refused;
    their teachers may differ.
    """
    import json
    import shlex

    from edgetext.checkpoint import write_atomic
    from edgetext.errors import ConfigError
    from edgetext.evaluate.compare import compare_runs
    from edgetext.evaluate.compare_report import markdown_page, notes, plot_comparison, terminal_table

    for path in (output, plot):
        if path is not None and path.exists() and not force:
            raise ConfigError(f"{path} exists already; replace it with --force, or choose another path")
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is not a directory; make it first, or choose another path")
    groups = compare_runs(runs)
    said = notes(groups)
    click.echo(terminal_table(groups))
    for note in said:
        click.echo(f"note: {note}")
    if output is not None:
        made_by = shlex.join(["edgetext", "compare", *map(str, runs)])
        write_atomic(output, markdown_page(groups, made_by).encode())
        click.echo(f"table: {output}")
    if plot is not None:
        plot_comparison(groups, plot)
        click.echo(f"plot: {plot}")
    if as_json:
        click.echo(json.dumps({"groups": [group.to_dict() for group in groups], "notes": said}))
