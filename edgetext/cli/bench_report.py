"""``edgetext bench report``: records as Markdown, one HTML page, a plot."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("bench report")
@click.argument("records", nargs=-1, required=True, type=_FILE, metavar="RECORD.json…")
@click.option("-o", "--output", type=_FILE, help="Write the tables (Markdown).")
@click.option("--html", type=_FILE, help="Write one self-contained page with all tables and plots.")
@click.option("--plot", type=_FILE, help="Draw the time per token of the first record (PNG).")
@click.option("--force", is_flag=True, help="Replace existing outputs.")
def command(
    records: tuple[Path, ...], output: Path | None, html: Path | None, plot: Path | None, force: bool
) -> None:
    """Show what `edgetext bench … -o RECORD.json` measured.

    Several records stand one after the other: figures of different machines are never averaged.

    Example: edgetext bench report here.json pi.json --html bench.html
    """
    from edgetext.cli._bench import check_outputs, read_record, write_outputs
    from edgetext_bench import markdown_table

    check_outputs((output, html, plot), force=force, drawn=html is not None or plot is not None)
    read = [read_record(path) for path in records]
    text = "\n".join(markdown_table(record) for record in read)
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")
        click.echo(f"tables: {output}", err=True)
    write_outputs(read, plot=plot, html=html)
