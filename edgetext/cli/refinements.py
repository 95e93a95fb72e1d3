"""``edgetext refinements``: how a student can be refined against a discriminator."""

from __future__ import annotations

import click


@click.command(short_help="List the adversarial refinements, or explain one.")
@click.argument("name", required=False)
@click.option("--toml", "as_toml", is_flag=True, help="Print it as a TOML file to start from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
def command(name: str | None, as_toml: bool, as_json: bool) -> None:
    """List the refinements of `edgetext distill --refinement`, or explain NAME (one of them or a TOML file).

    \b
    edgetext refinements
    edgetext refinements seqgan
    edgetext refinements relgan --toml > mine.toml
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json

    from edgetext.adversarial.refinements import REFINEMENTS, describe, read_refinement, to_toml
    from edgetext.adversarial.settings import GRADIENTS

    chosen = [read_refinement(name)] if name else list(REFINEMENTS.values())
    if as_toml:
        if name is None:
            raise click.UsageError("--toml prints one refinement; name it")
        click.echo(to_toml(chosen[0]), nl=False)
    elif name:
        click.echo(describe(chosen[0]))
    else:
        width = max(len(settings.name) for settings in chosen)
        for settings in chosen:
            judge = settings.discriminator
            several = f" of {judge.embeddings} embeddings" if judge.embeddings > 1 else ""
            matched = ", feature matching" if settings.matching else ""
            click.echo(f"{settings.name:<{width}}  {GRADIENTS[settings.gradient]}")
            click.echo(f"{'':<{width}}  {settings.objective}, {judge.kind}{several}{matched}")
        click.echo("\nOne in full: edgetext refinements NAME. Use: edgetext distill --refinement NAME")
    if as_json:
        click.echo(json.dumps([settings.to_dict() for settings in chosen]))
