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
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Measure the bundles beside the Hugging Face directory they were made from, in other runtimes.",
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
    peers: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure bundles: load, time to first token, time per token, memory.

    Give the fp32 bundle beside the int8 one to see what quantisation is worth: they take turns, so their
    ratio holds even where the machine's speed drifts. Every bundle and thread count has a process of its
    own. More threads than cores are allowed, and noted in the result.

    With --peers the same model also decodes in transformers, onnxruntime-genai, llama-cpp-python and
    ctranslate2 (pip install 'edgetext[peers]'), all taking turns with the same sampling.

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
    if peers is not None:
        if plot is not None:
            raise InputError("--plot does not go with --peers; leave it out")
        _compare(bundles, peers, settings, output, as_json)
        return
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


def _compare(
    bundles: tuple[Path, ...], directory: Path, settings: Settings, output: Path | None, as_json: bool
) -> None:
    """Bundles beside their peers."""
    import json

    from edgetext_bench.peers.compare import compare_peers, peer_table
    from edgetext_bench.peers.systems import Sampling

    record = compare_peers(
        bundles,
        directory,
        threads=settings.threads,
        tokens=settings.tokens,
        repeats=settings.repeats,
        sampling=Sampling(settings.temperature, settings.top_k, settings.top_p),
        command=f"{_command_line(bundles, settings)} --peers {directory.name}",
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(peer_table(record))
    if output is not None:
        output.write_text(record.to_json() + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps({run.system: run.us_per_token for run in record.runs}))


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
