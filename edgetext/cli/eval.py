"""``edgetext eval``: the referee, for checkpoints and bundles alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)
CORPUS = ("column", "label_column", "unit", "valid_fraction", "test_fraction", "split_seed")


@click.command(
    short_help="Judge models: likelihood, BLEU, diversity, referees, frontiers.",
    context_settings={"show_default": True},
)
@click.argument("models", nargs=-1, type=_PATH, metavar="[MODEL...]")
@click.option("--corpus", required=True, metavar="SOURCE", help="Text to judge against, as for distill.")
@click.option("--test-corpus", metavar="SOURCE", help="Test text of its own.")
@click.option("--column", metavar="NAME", help="Column or key with the text.")
@click.option("--label-column", metavar="NAME", help="Column with the labels: judges texts by label.")
@click.option("--unit", type=click.Choice(["line", "paragraph", "document"]), help="What one document is.")
@click.option("--valid-fraction", default=0.05, metavar="P", help="Share kept for validation.")
@click.option("--test-fraction", default=0.05, metavar="P", help="Share kept for the test.")
@click.option("--split-seed", default=0, metavar="N", help="Changes which documents those are.")
@click.option("--samples", default=1000, metavar="N", help="Texts of a set.")
@click.option("--scored", default=1000, metavar="N", help="Texts of a set that get a BLEU of their own.")
@click.option("--seeds", default=3, metavar="N", help="Sets per model and temperature.")
@click.option(
    "--temperature",
    "temperatures",
    multiple=True,
    type=float,
    default=(1.0,),
    metavar="T",
    help="Sampling temperature; again for a sweep, which draws a frontier.",
)
@click.option("--documents", default=1000, metavar="N", help="Documents for likelihoods; 0: none.")
@click.option("--features", type=_PATH, metavar="DIR", help="Model for Fréchet distance and MAUVE.")
@click.option("--teacher", type=_PATH, metavar="DIR", help="Model for agreement and KL.")
@click.option("--oracle", type=_PATH, metavar="DIR", help="Arrays of the SeqGAN oracle, for its NLL.")
@click.option("--neural", is_flag=True, help="A neural referee as well (about a minute per set).")
@click.option("--best-of", default=1, metavar="N", help="Judge them as well with N candidates per text.")
@click.option(
    "--choose-by",
    multiple=True,
    type=click.Choice(["likelihood", "top", "resample"]),
    help="With --best-of, which is kept: the likeliest, or by the discriminator; again for several.  "
    "[default: resample]",
)
@click.option(
    "--label-strength",
    "label_strengths",
    multiple=True,
    type=float,
    default=(1.0,),
    metavar="S",
    help="Of conditioned bundles; again for several.",
)
@click.option("-o", "--output", type=_PATH, metavar="DIR", help="Write the record, a page, the frontier.")
@click.option("--force", is_flag=True, help="Replace them.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON line last.")
def command(
    models: tuple[Path, ...], corpus: str, output: Path | None, force: bool, as_json: bool, **options: Any
) -> None:
    """Judge checkpoints (runs, model directories) and bundles (.etx) against a corpus.

    Likelihoods on both splits; BLEU-2..5 and Self-BLEU-2..5 as the text-GAN papers take them; LM score and
    reverse-LM score; distinct-n; and what the options add. People's own texts are a row of the table, the
    only one where no model is given. Two or more temperatures draw the frontier and say who dominates whom.
    Models whose paths differ in -seed0, -seed1 alone are trainings of one row.

    \b
    edgetext eval runs/my my.etx --corpus my.txt
    edgetext eval runs/a runs/b --corpus my.txt --temperature 0.8 --temperature 1 -o judged
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json
    import shlex
    import shutil
    import sys
    import textwrap

    from edgetext.checkpoint import write_atomic, write_json
    from edgetext.corpus.config import CorpusConfig
    from edgetext.errors import ConfigError
    from edgetext.evaluate.evaluation import EvaluationSettings, evaluate
    from edgetext.evaluate.evaluation_report import markdown, notes, plot_sweeps, tables

    if output is not None and (output / "evaluation.json").exists() and not force:
        raise ConfigError(f"{output} holds an evaluation; replace it with --force, or choose another -o")
    if not options["choose_by"]:
        del options["choose_by"]
    elif options["best_of"] == 1:
        raise ConfigError("--choose-by says which of several texts is kept; give --best-of as well")
    settings_of_corpus = {name: options.pop(name) for name in CORPUS}
    text = CorpusConfig(source=corpus, test_source=options.pop("test_corpus"), **settings_of_corpus)
    record = evaluate(models, text, EvaluationSettings(**options), lambda line: click.echo(line, err=True))
    width = shutil.get_terminal_size().columns
    for title, body in tables(record, width):
        click.echo(f"\n{title}\n{body}")
    click.echo()
    for note in notes(record):
        click.echo(textwrap.fill(note, width))
    if output is not None:
        made_by = shlex.join(["edgetext", *sys.argv[1:]])
        picture = "frontier.png" if record["sweeps"] else None
        output.mkdir(parents=True, exist_ok=True)
        if picture is not None:
            plot_sweeps(record, output / picture)
        write_json(output / "evaluation.json", record)
        write_atomic(output / "evaluation.md", markdown(record, made_by, picture).encode())
        click.echo(f"record: {output / 'evaluation.json'}")
    if as_json:
        click.echo(json.dumps(record))
