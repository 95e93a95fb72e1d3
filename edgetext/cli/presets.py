"""``edgetext presets``: the named model shapes."""

from __future__ import annotations

from typing import Any

import click


@click.command(short_help="List the model presets with their parameters and sizes.")
@click.option("--vocab-size", type=click.IntRange(min=4), metavar="V", help="Size them for V token ids.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line instead of the table.")
def command(vocab_size: int | None, as_json: bool) -> None:
    """List the model presets: kind, shape, parameters, bytes as float32 and as int8.

    Give one to `edgetext distill` as --teacher or --student; change fields after commas
    (lstm-student,hidden=256), or spell out a shape of your own
    (lstm,embedding=128,hidden=256,layers=2,tied=true).
    """
    import json

    from edgetext.models.presets import PRESETS, REFERENCE_VOCABULARY

    V = vocab_size or REFERENCE_VOCABULARY
    rows: list[dict[str, Any]] = []
    for name, (shape, purpose) in PRESETS.items():
        config = shape.with_vocab(V)
        rows.append(
            {
                "name": name,
                "purpose": purpose,
                "kind": config.kind,
                "layers": config.layers,
                "hidden": config.hidden,
                "embedding": config.embedding,
                "parameters": config.parameters(),
                "fp32_bytes": 4 * config.parameters(),
                "int8_bytes": config.int8_bytes(),
            }
        )
    if as_json:
        click.echo(json.dumps({"vocab_size": V, "presets": rows}))
        return
    click.echo(f"{'preset':<32}{'layers':>6}{'hidden':>7}{'params':>13}{'fp32':>10}{'int8':>10}  for")
    for row in rows:
        click.echo(
            f"{row['name']:<32}{row['layers']:>6}{row['hidden']:>7}{row['parameters']:>13,}"
            f"{row['fp32_bytes'] / 1e6:>7.2f} MB{row['int8_bytes'] / 1e6:>7.2f} MB  {row['purpose']}"
        )
    click.echo(
        f"Vocabulary of {V:,} ids; int8 is the size of the exported weights, a bundle adds its tokenizer."
    )
