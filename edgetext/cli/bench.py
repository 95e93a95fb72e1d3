"""``edgetext bench``: measure bundles on this machine, or on another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgetext_bench import Settings

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE.etx…")
@click.option("--threads", default="1,2", show_default=True, help="Thread counts to measure, with commas.")
@click.option("--tokens", default=200, show_default=True, help="Tokens to decode per round.")
@click.option("--repeats", default=5, show_default=True, help="Rounds, each in fresh processes.")
@click.option("--prompt", default="Once upon a time", show_default=True, help="The short prompt.")
@click.option("--prompt-lengths", default="16,64,256", show_default=True, help="Tokens of longer prompts.")
@click.option("--depths", default="64,256", show_default=True, help="Tokens before steps that are timed.")
@click.option("--batches", default="1,2,4,8", show_default=True, help="Sequences that take a step together.")
@click.option("--sustained", default=0.0, metavar="SECONDS", help="Also decode without a pause; default: no.")
@click.option("--temperature", default=0.8, show_default=True, help="Sampling temperature.")
@click.option("--top-k", default=40, show_default=True, help="Sample among the k likeliest; 0 is all.")
@click.option("--top-p", default=0.95, show_default=True, help="Sample among the likeliest with this share.")
@click.option("--pin", is_flag=True, help="Hold each process to as many processors as it has threads.")
@click.option(
    "--provider", default="cpu", show_default=True, help="What runs the graph: cpu, numpy; with commas, each."
)
@click.option(
    "--on",
    default="here",
    metavar="TARGET",
    help="limited:cores=1,cpu=0.5,mem=256M; ssh://user@host; adb://serial; cuda; emulated:aarch64; modelled.",
)
@click.option("-o", "--output", type=_FILE, help="Write the record with all samples (JSON).")
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Measure the bundles beside the Hugging Face directory they were made from, in other runtimes.",
)
@click.option("--plot", type=_FILE, help="Draw the time per token (PNG).")
@click.option("--html", type=_FILE, help="Write one self-contained page with all tables and plots.")
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON line at the end.")
def command(
    bundles: tuple[Path, ...],
    threads: str,
    tokens: int,
    repeats: int,
    prompt: str,
    prompt_lengths: str,
    depths: str,
    batches: str,
    sustained: float,
    temperature: float,
    top_k: int,
    top_p: float,
    pin: bool,
    provider: str,
    on: str,
    output: Path | None,
    peers: Path | None,
    plot: Path | None,
    html: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure bundles: load, time to first token, time per token, memory, and where the time goes.

    Give the fp32 bundle beside the int8 one to see what quantisation is worth: they take turns, so their
    ratio holds even where the machine's speed drifts. Every round has processes of its own. More threads
    than cores are allowed, and noted in the result.

    --on chooses where. limited: this machine with fewer cores, less time or less memory. ssh, adb: runtime,
    bench and bundles go there as one zipapp and run in the device's own Python, which needs numpy and
    onnxruntime (ssh://host?python=PATH names it, &config=FILE an ssh configuration); the record comes back.
    cuda: beside the CPU. emulated:aarch64: golden tokens and instruction counts under qemu, no times.
    modelled: measured here, then estimated for classes of devices.

    With --peers the same model also decodes in transformers, onnxruntime-genai, llama-cpp-python and
    ctranslate2 (pip install 'edgetext[peers]'), all taking turns with the same sampling.

    Example: edgetext bench int8.etx fp32.etx -o record.json --html bench.html
    """
    import json

    from edgetext.cli._bench import check_outputs, counts, write_outputs
    from edgetext_bench import Settings, markdown_table
    from edgetext_bench.summary import summary
    from edgetext_bench.targets import bench_on
    from edgetext_runtime.errors import InputError

    settings = Settings(
        threads=counts("threads", threads),
        tokens=tokens,
        repeats=repeats,
        prompt=prompt,
        prompt_lengths=counts("prompt-lengths", prompt_lengths),
        depths=counts("depths", depths),
        batches=counts("batches", batches),
        sustained_s=sustained,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        pin=pin,
        providers=tuple(provider.split(",")),
    )
    check_outputs((output, plot, html), force=force, drawn=plot is not None or html is not None)
    if peers is not None:
        if plot is not None or html is not None or on != "here":
            raise InputError("--plot, --html and --on do not go with --peers; leave them out")
        _compare(bundles, peers, settings, output, as_json)
        return
    record = bench_on(
        on,
        bundles,
        settings,
        progress=lambda line: click.echo(line, err=True),
        command=_command_line(bundles, settings, on),
    )
    click.echo(markdown_table(record))
    write_outputs([record], output=output, plot=plot, html=html)
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
        command=f"{_command_line(bundles, settings, 'here')} --peers {directory.name}",
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(peer_table(record))
    if output is not None:
        output.write_text(record.to_json() + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps({run.system: run.us_per_token for run in record.runs}))


def _command_line(bundles: tuple[Path, ...], settings: Settings, on: str) -> str:
    """Return what was typed, without paths, hosts and options left at their defaults."""
    import shlex

    from edgetext_bench.targets import without_host

    defaults = type(settings)()
    words = ["edgetext", "bench", *(path.name for path in bundles)]
    words += ["--threads", ",".join(map(str, settings.threads))]
    names = {"sustained_s": "sustained", "providers": "provider"}
    for name in (
        *("tokens", "repeats", "prompt", "prompt_lengths", "depths", "batches", "sustained_s"),
        *("temperature", "top_k", "top_p", "providers"),
    ):
        value = getattr(settings, name)
        if value != getattr(defaults, name):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{names.get(name, name).replace('_', '-')}", shown]
    words += ["--pin"] if settings.pin else []
    words += ["--on", without_host(on)] if on != "here" else []
    return shlex.join(words)
