"""``edgetext oracle``: text of the synthetic oracle, to train on and to be judged by it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    short_help="Write text of SeqGAN's synthetic oracle as a corpus.", context_settings={"show_default": True}
)
@click.argument("oracle", type=click.Path(path_type=Path), metavar="DIR")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="TXT")
@click.option("--count", default=10_000, type=click.IntRange(min=1), metavar="N", help="Texts.")
@click.option("--seed", default=0, metavar="N", help="Same seed, same texts.")
@click.option("--force", is_flag=True, help="Replace the output.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line last.")
def command(oracle: Path, output: Path, count: int, seed: int, force: bool, as_json: bool) -> None:
    """Sample texts of 20 numbers from the oracle whose arrays lie in DIR; one text a line.

    \b
    edgetext oracle seqgan_oracle -o oracle.txt
    edgetext distill --corpus oracle.txt --tokenizer word --windows document --refine-steps 0
    edgetext eval runs/oracle --corpus oracle.txt --oracle seqgan_oracle
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json

    from edgetext.checkpoint import write_atomic
    from edgetext.errors import ConfigError
    from edgetext.evaluate.oracle import load_oracle

    if output.exists() and not force:
        raise ConfigError(f"{output} exists already; replace it with --force, or choose another path")
    model = load_oracle(oracle)
    texts = model.sample(count, seed)
    nll = float(model.nll(texts).mean())
    write_atomic(output, "".join(" ".join(map(str, row)) + "\n" for row in texts.tolist()).encode())
    click.echo(f"{output}: {count:,} texts of {texts.shape[1]} tokens, oracle NLL {nll:.3f}")
    if as_json:
        click.echo(json.dumps({"output": str(output), "texts": count, "nll": nll}))
