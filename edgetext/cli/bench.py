"""``edgetext bench``: measure bundles on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgetext_bench import Settings


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE.etx…")
@click.option("--threads", default="1,2", show_default=True, help="Thread counts to measure, with commas.")
@click.option("--tokens", default=200, show_default=True, help="Tokens to decode per round.")
@click.option("--repeats", default=5, show_default=True, help="Rounds, and fresh processes for start-up.")
@click.option("--prompt", default="Once upon a time", show_default=True, help="The short prompt.")
@click.option("--long-prompt-tokens", default=64, show_default=True, help="Length of the long prompt.")
@click.option("--temperature", default=0.8, show_default=True, help="Sampling temperature.")
@click.option("--top-k", default=40, show_default=True, help="Sample among the k likeliest; 0 is all.")
@click.option("--top-p", default=0.95, show_default=True, help="Sample among the likeliest with this share.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the record with all samples (JSON)."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the time per token (PNG).")
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON line at the end.")
def command(
    bundles: tuple[Path, ...],
    threads: str,
    tokens: int,
    repeats: int,
    prompt: str,
    long_prompt_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    output: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure bundles: load, time to first token, time per token, memory.

    Give the fp32 bundle beside the int8 one to see what quantisation is worth: they take turns, so their
    ratio holds even where the machine's speed drifts. Every bundle and thread count has a process of its
    own. More threads than cores are allowed, and noted in the result.

    Example: edgetext bench int8.etx fp32.etx -o record.json --plot latency.png
    """
    import json

    from edgetext_bench import Settings, bench, markdown_table, plot_latency
    from edgetext_bench.report import new_canvas
    from edgetext_bench.summary import summary
    from edgetext_runtime.errors import EdgetextError, InputError

    settings = Settings(
        threads=_thread_counts(threads),
        tokens=tokens,
        repeats=repeats,
        prompt=prompt,
        long_prompt_tokens=long_prompt_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    for path in (output, plot):
        if path is not None and path.exists() and not force:
            raise InputError(f"{path} exists already: choose another path, or replace it with --force")
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path.parent} is not a directory; make it first, or choose another path")
    if plot is not None:
        new_canvas(1, 1)  # fails now, not after minutes of measuring
    shown = _command_line(bundles, settings)
    record = bench(bundles, settings, progress=lambda line: click.echo(line, err=True), command=shown)
    click.echo(markdown_table(record))
    if output is not None:
        try:
            output.write_text(record.to_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise EdgetextError(f"cannot write the record {output}: {error}") from error
        click.echo(f"record: {output}", err=True)
    if plot is not None:
        click.echo(f"plot: {plot_latency(record, plot)}", err=True)
    if as_json:
        click.echo(json.dumps(summary(record)))


def _command_line(bundles: tuple[Path, ...], settings: Settings) -> str:
    """Return what was typed, with file names for paths and without options left at their defaults."""
    import shlex

    defaults = type(settings)()
    words = ["edgetext", "bench", *(path.name for path in bundles)]
    words += ["--threads", ",".join(map(str, settings.threads))]
    for name in ("tokens", "repeats", "prompt", "long_prompt_tokens", "temperature", "top_k", "top_p"):
        value = getattr(settings, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _thread_counts(text: str) -> tuple[int, ...]:
    """Read ``1,2`` as counts."""
    from edgetext_runtime.errors import InputError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"threads is {text!r}; allowed are counts with commas (--threads 1,2)") from error
