"""``edgetext generate``: stream text from a bundle to the terminal."""

from __future__ import annotations

import sys
from typing import Any

import click


@click.command(short_help="Generate text from a bundle, streaming to the terminal.")
@click.argument("model", metavar="MODEL.etx", type=click.Path(path_type=str))
@click.option("--prompt", default="", metavar="TEXT", help="Text to continue; '-' reads stdin.")
@click.option("--max-new-tokens", type=int, metavar="N", help="Most tokens to generate.")
@click.option("--temperature", type=float, metavar="T", help="0 is greedy; lower is safer.")
@click.option("--top-k", type=int, metavar="K", help="Sample among the K likeliest tokens; 0: all.")
@click.option("--top-p", type=float, metavar="P", help="Sample among the likeliest that reach P.")
@click.option("--min-p", type=float, metavar="P", help="Drop tokens less likely than P of the likeliest.")
@click.option("--seed", type=int, metavar="N", help="Give the same text again; default: a fresh one.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before TEXT; repeatable.")
@click.option("--threads", type=int, metavar="N", help="Threads; default: chosen from the model's size.")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON line with the result at the end.")
def command(model: str, prompt: str, **options: Any) -> None:
    """Continue a prompt with the text generator in MODEL.etx, a bundle or a folder with its members.

    Sampling options that are not given are the bundle's own.
    """
    from edgetext_runtime.console import generate_to

    generate_to(sys.stdout, model, prompt, **options)
