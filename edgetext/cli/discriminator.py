"""``edgetext discriminator``: train what rates a student's texts, on the device as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(
    short_help="Train a discriminator that rates a run's student, for best_of on the device.",
    context_settings={"show_default": True},
)
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--kind", type=click.Choice(["cnn", "lstm", "lstm-cnn", "transformer"]), default="lstm-cnn")
@click.option("--hidden", default=64, metavar="H", help="Filters, units or width.")
@click.option("--dropout", default=0.4, metavar="P", help="Dropout in training.")
@click.option("--length", default=40, metavar="N", help="Tokens that it reads of a text.")
@click.option("--steps", default=1500, metavar="N", help="Training steps.")
@click.option("--batch-size", default=64, metavar="B", help="Texts of each side in a step.")
@click.option("--rate", default=1e-3, metavar="LR", help="Peak learning rate.")
@click.option("--patience", default=3, metavar="N", help="Stop after N validations without gain; 0: never.")
@click.option("--seed", default=0, metavar="N", help="Same seed, same weights.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished training, keep a finished one.")
@click.option("--force", is_flag=True, help="Replace the run's discriminator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
def command(run: Path, as_json: bool, **options: Any) -> None:
    """Train RUN/discriminator to tell the texts of RUN's student from real ones.

    Its logit estimates how much likelier a text is in the corpus than from the student. Exported with the
    student (`edgetext export RUN --discriminator`) it lets the device draw several texts and keep one:
    `edgetext generate my.etx --best-of 8 --choose-by resample`.
    """
    import json

    from edgetext.adversarial.train_rater import train_rater

    record = train_rater(run, say=click.echo, **options)
    click.echo(
        f"{run / 'discriminator'}: tells {record['told_apart']:.1%} of held-out pairs apart, "
        f"{record['score']:.3f} nats, logits × {record['scale']:.2f}"
    )
    if as_json:
        click.echo(json.dumps(record))
