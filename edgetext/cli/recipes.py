"""``edgetext recipes``: what a student can learn from its teacher."""

from __future__ import annotations

import click


@click.command(short_help="List the distillation recipes, or explain one.")
@click.argument("name", required=False)
@click.option("--toml", "as_toml", is_flag=True, help="Print the recipe as a TOML file to start from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
def command(name: str | None, as_toml: bool, as_json: bool) -> None:
    """List the recipes of `edgetext distill --recipe`, or explain NAME (a recipe or a TOML file).

    \b
    edgetext recipes
    edgetext recipes tinybert
    edgetext recipes hinton --toml > mine.toml
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json

    from edgetext.distill.recipe import Recipe, describe, to_toml
    from edgetext.distill.recipes import RECIPES, read_recipe

    chosen: list[Recipe] = [read_recipe(name)] if name else list(RECIPES.values())
    if as_toml:
        if name is None:
            raise click.UsageError("--toml prints one recipe; name it")
        click.echo(to_toml(chosen[0]), nl=False)
    elif name:
        click.echo(describe(chosen[0]))
    else:
        width = max(len(recipe.name) for recipe in chosen)
        for recipe in chosen:
            click.echo(f"{recipe.name:<{width}}  {recipe.summary}")
        click.echo("\nOne in full: edgetext recipes NAME. Use: edgetext distill --recipe NAME")
    if as_json:
        click.echo(json.dumps([recipe.to_dict() for recipe in chosen]))
