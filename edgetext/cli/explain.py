"""``edgetext explain``: a text as the student, its teacher and its discriminator see it, as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command(short_help="Explain a text token by token, as one HTML page.")
@click.argument("run", type=_PATH, metavar="RUN")
@click.option("--text", required=True, metavar="TEXT", help="The text to explain.")
@click.option("--teacher", type=_PATH, metavar="DIR", help="Teacher to compare with.")
@click.option("-o", "--output", type=_PATH, default=Path("explained.html"), show_default=True, metavar="HTML")
@click.option("--force", is_flag=True, help="Replace the output.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON line last.")
def command(run: Path, text: str, teacher: Path | None, output: Path, force: bool, as_json: bool) -> None:
    """Write a page on how RUN's student reads TEXT: probabilities, where the teacher differs, what RUN's
    discriminator goes by, and, for a Transformer, where it looks.
    """  # noqa: D205 - one sentence
    import json
    from dataclasses import asdict

    from edgetext.checkpoint import write_atomic
    from edgetext.errors import ConfigError
    from edgetext.evaluate.explain import explain, page

    if output.exists() and not force:
        raise ConfigError(f"{output} exists already; replace it with --force, or choose another path with -o")
    found = explain(run, text, teacher)
    write_atomic(output, page(found).encode())
    click.echo(f"{output}: {len(found.tokens)} tokens explained")
    if as_json:
        click.echo(json.dumps(asdict(found)))
