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
@click.option("--typical-p", type=float, metavar="P", help="Sample tokens of typical surprise that reach P.")
@click.option("--repetition-penalty", type=float, metavar="R", help="Above 1: fewer repetitions.")
@click.option("--presence-penalty", type=float, metavar="A", help="Off the logits of tokens in the text.")
@click.option("--frequency-penalty", type=float, metavar="B", help="The same, for every time they occur.")
@click.option("--no-repeat-ngram-size", type=int, metavar="N", help="No N tokens in a row twice.")
@click.option("--min-new-tokens", type=int, metavar="N", help="Tokens before the text may end.")
@click.option("--bad-word", "bad_words", multiple=True, metavar="TEXT", help="Never write TEXT; repeatable.")
@click.option("--num-beams", type=int, metavar="N", help="Beam search with N beams.")
@click.option("--length-penalty", type=float, metavar="A", help="Its exponent of length.  [default: 1]")
@click.option("--best-of", type=int, metavar="N", help="Write N texts and keep one.")
@click.option(
    "--choose-by",
    type=click.Choice(["likelihood", "top", "resample"]),
    help="Which: the likeliest, or by the bundle's discriminator.  [default: likelihood]",
)
@click.option("--choice", "choices", multiple=True, metavar="TEXT", help="Write one of these; repeatable.")
@click.option("--regex", metavar="PATTERN", help="Write a full match of PATTERN.")
@click.option("--json-schema", metavar="FILE", help="Write a JSON document of the schema in FILE.")
@click.option("--logprobs", is_flag=True, default=None, help="Log-probabilities in the JSON line.")
@click.option("--label", metavar="NAME", help="What the text should be: a label of the bundle.")
@click.option("--label-strength", type=float, metavar="S", help="Above 1: further from other labels.")
@click.option(
    "--context-policy",
    type=click.Choice(["error", "truncate_left", "slide"]),
    help="When a text outgrows the model's context.  [default: error]",
)
@click.option("--seed", type=int, metavar="N", help="Give the same text again; default: a fresh one.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before TEXT; repeatable.")
@click.option("--threads", type=int, metavar="N", help="Threads; default: what is fastest here.")
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda", "numpy"]),
    default="auto",
    help="Where to run.  [default: onnxruntime's cpu, or numpy where it is missing]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line with the result at the end.")
def command(model: str, prompt: str, **options: Any) -> None:
    """Continue a prompt with the text generator in MODEL.etx, a bundle or a folder with its members.

    Sampling options that are not given are the bundle's own.
    """
    from edgetext_runtime.console import generate_to

    given = {name: value for name, value in options.items() if value != ()}  # repeatable ones, not given
    generate_to(sys.stdout, model, prompt, **given)
