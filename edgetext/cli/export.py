"""``edgetext export``: a run's student as a checked, quantised ONNX bundle."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgetext_export.bundle import ExportReport
    from edgetext_export.recipes import Target


@click.command(short_help="Write a student as a checked, quantised ONNX bundle (.etx).")
@click.argument("run", metavar="RUN|MODEL", type=click.Path(path_type=str))
@click.option("--int8", "recipe", flag_value="int8", help="8-bit weights (the default).")
@click.option("--int4", "recipe", flag_value="int4", help="4-bit weights: half the size, some loss.")
@click.option("--fp16", "recipe", flag_value="fp16", help="Stored as float16, computed in float32.")
@click.option("--fp32", "recipe", flag_value="fp32", help="Float32: four times the size, for comparison.")
@click.option(
    "--recipe",
    "named",
    metavar="NAME",
    help="Other weights: int8-dynamic, int8-head-fp32, int8-cells, int4-mixed, int4-cells.",
)
@click.option(
    "--portable",
    is_flag=True,
    help="With ONNX's standard operators only, for other runtimes; --fp32 unless another is given.",
)
@click.option(
    "--target",
    default="generic",
    show_default=True,
    type=click.Choice(["generic", "x86-vnni", "x86-avx2", "arm64"]),
    help="CPUs the bundle is for; generic is safe on all.",
)
@click.option(
    "--tune", is_flag=True, help="With --int8: store the weights as is fastest here, by measurement."
)
@click.option("--max-mb", type=float, help="Refuse a bundle larger than this (10⁶ bytes).")
@click.option("--max-ms", type=float, help="… slower than this per token, here, at one thread.")
@click.option("--max-flip", type=float, metavar="SHARE", help="… whose likeliest token differs more often.")
@click.option(
    "--max-perplexity-increase", type=float, metavar="SHARE", help="… that loses more; 0.01 is 1 %."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=str),
    help="Default: RUN/student-RECIPE.etx; for MODEL: ./NAME-RECIPE.etx.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    metavar="N",
    help="Most test tokens to measure the quality on.",
)
@click.option("--corpus", metavar="PATH", help="For MODEL: text to measure on. Default: the embedded one.")
@click.option(
    "--context", type=int, metavar="N", help="For MODEL: most tokens of context. Default: up to 2048."
)
@click.option("--discriminator", is_flag=True, help="With the run's discriminator, for --best-of.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line with the figures at the end.")
def command(
    run: str,
    recipe: str | None,
    named: str | None,
    portable: bool,
    target: Target,
    tune: bool,
    max_mb: float | None,
    max_ms: float | None,
    max_flip: float | None,
    max_perplexity_increase: float | None,
    output: str | None,
    tokens: int,
    corpus: str | None,
    context: int | None,
    discriminator: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export the student of RUN, a directory made by `edgetext distill`, or a Hugging Face MODEL directory.

    MODEL is of Llama's family (Llama, Mistral, Qwen 2) or GPT-2's, with safetensors and a byte-level
    tokenizer.json. The graph is compared with torch on the run's test split (on --corpus), and the written
    file must give its golden tokens; a bundle that fails either, or misses a gate (--max-…), is not written.
    """
    from edgetext_export import export_run
    from edgetext_export.gates import Gates

    with ExitStack() as stack:
        bars: list[Any] = []

        def show(done: int, total: int) -> None:
            if not bars:  # not before there is something to show: what is refused is refused without a bar
                bar = click.progressbar(length=total, label="comparing with torch", file=sys.stderr)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].pos)

        report = export_run(
            run,
            output,
            named or recipe or ("fp32" if portable else "int8"),
            force,
            target=target,
            tuned=tune,
            gates=Gates(max_mb, max_ms, max_flip, max_perplexity_increase),
            quality_tokens=tokens,
            corpus=corpus,
            context=context,
            discriminator=discriminator,
            portable=portable,
            progress=show,
        )
    click.echo(_figures(report))
    if as_json:
        click.echo(json.dumps(report.to_dict()))


def _figures(report: ExportReport) -> str:
    from edgetext.evaluate.markdown import plain

    quality = report.quality
    change = f"{quality.perplexity_increase:+.3%}"
    rows = [
        ("parameters", f"{report.parameters:,}"),
        ("size", f"{report.bundle_bytes:,} bytes ({report.model_bytes:,} of them the model)"),
        ("perplexity, torch float32", f"{quality.perplexity_fp32:.3f}"),
        ("perplexity, exported", f"{quality.perplexity_exported:.3f} ({change})"),
        ("argmax flips, prompt", f"{quality.flip_rate_prompt:.2%} of {quality.tokens:,} tokens"),
        ("argmax flips, token by token", f"{quality.flip_rate_step:.2%} of {quality.step_tokens:,} tokens"),
        ("logit error, mean / largest", f"{quality.mean_logit_error:.3g} / {quality.max_logit_error:.3g}"),
        ("golden cases replayed", f"{report.golden_cases}, at 1 and 2 threads"),
        ("seconds", f"{report.seconds:.1f}"),
    ]
    return plain(f"{report.path} ({report.recipe})", rows)
