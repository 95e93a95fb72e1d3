"""``edgetext cache-targets``: a teacher's distributions on disk, to distil from without the teacher."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgetext.distill.cache_targets import CacheReport


@click.command(
    "cache-targets",
    short_help="Write a teacher's likeliest tokens to disk, to distil without it.",
    context_settings={"show_default": True},
)
@click.argument("teachers", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="TEACHER…")
@click.option(
    "--run",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run (or prepared corpus) whose training split the targets are for.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The cache."
)
@click.option("--top-k", default=32, metavar="K", help="Tokens kept at every position.")
@click.option(
    "--tail-samples",
    type=int,
    metavar="S",
    help="Tokens drawn from all others; 0: only their mass.  [default: up to 80, within 300 bytes a token]",
)
@click.option("--hidden", is_flag=True, help="Keep every layer's output as well (2 bytes a number).")
@click.option(
    "--windows",
    type=click.Choice(["stream", "document"]),
    default="stream",
    help="Read across documents, or each from a fresh start; as the student will.",
)
@click.option(
    "--context",
    type=int,
    metavar="C",
    help="Most tokens read at once, half of them before the first that counts.  [default: a Transformer's "
    "training windows, or else its whole context; an LSTM carries its state]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    help="Arithmetic of the teacher; auto: bf16 where the device has units for it.",
)
@click.option(
    "--written-tokens",
    default=0,
    metavar="N",
    help="Let the teacher write N tokens and cache them too, for recipes that use its text.",
)
@click.option("--shard-mb", default=64.0, metavar="MB", help="Size of a file; the most that a kill loses.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted cache, or mend a damaged one.")
@click.option("--force", is_flag=True, help="Delete the cache and start again.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON line last.")
def command(
    teachers: tuple[Path, ...],
    run: Path,
    output: Path,
    top_k: int,
    tail_samples: int | None,
    hidden: bool,
    windows: str,
    context: int | None,
    precision: str,
    written_tokens: int,
    shard_mb: float,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Store what teachers say about every token of a training split.

    For every position the K likeliest next tokens are kept with their probabilities, the mass of all others,
    and S tokens drawn from these: 4·K + 2·S + 2 bytes a token (6·K + 4·S + 2 from 65,537 token ids on). Of
    several teachers the mean of their probabilities is stored. TEACHER is a run or a model directory with the
    run's tokenizer.

    \b
    edgetext cache-targets runs/mine --run runs/mine -o runs/mine-targets
    edgetext cache-targets runs/a runs/b runs/c --run runs/a -o targets --windows document
    """  # noqa: D301 - click's marker for lines to be left as they are
    import json
    import shlex
    from dataclasses import asdict

    from edgetext.errors import EdgetextError

    try:
        from edgetext.distill.cache_format import CacheSettings
        from edgetext.distill.cache_targets import cache_targets
    except ImportError as error:
        raise EdgetextError(f"caching targets needs {error.name}: pip install 'edgetext[train]'") from error
    settings = CacheSettings(
        top_k=top_k,
        tail_samples=tail_samples,
        hidden=hidden,
        windows="document" if windows == "document" else "stream",
        context=context,
        precision="fp32" if precision == "fp32" else "bf16" if precision == "bf16" else "auto",
        shard_mb=shard_mb,
    )
    try:
        report = cache_targets(
            teachers,
            run,
            output,
            settings,
            written_tokens=written_tokens,
            resume=resume,
            force=force,
            say=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt:
        typed = [word for word in sys.argv[1:] if word not in ("--force", "--resume")]
        click.echo(f"interrupted; go on with: {shlex.join(['edgetext', *typed, '--resume'])}", err=True)
        sys.exit(130)
    click.echo(_figures(report))
    if as_json:
        click.echo(json.dumps(asdict(report)))


def _figures(report: CacheReport) -> str:
    from edgetext.evaluate.markdown import plain

    read = f"windows of {report.context}, half of them new" if report.context else "state carried"
    return plain(
        report.directory,
        [
            ("positions", f"{report.positions:,}"),
            ("teacher read", f"{report.windows}, {read}, {report.precision}"),
            ("likeliest tokens kept", f"{report.top_k}, {1 - report.tail_mass:.2%} of the probability"),
            (
                "drawn from the rest",
                f"{report.tail_samples} at every position" if report.tail_samples else "none",
            ),
            ("of text the teacher wrote", f"{report.written:,}" if report.written else "none"),
            ("hidden states", " ".join(map(str, report.hidden)) or "none"),
            ("size", f"{report.bytes:,} bytes, {report.bytes_per_token:.1f} a token"),
        ],
    )
