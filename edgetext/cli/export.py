"""``edgetext export``: a run's student as a checked, quantised ONNX bundle."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgetext_export.bundle import ExportReport
    from edgetext_export.recipes import Target
    from edgetext_export.rounding import Rounding
    from edgetext_export.static import Method


@click.command(short_help="Write a student as a checked, quantised ONNX bundle (.etx).")
@click.argument("run", metavar="RUN|MODEL", type=click.Path(path_type=str))
@click.option("--int8", is_flag=True, help="8-bit weights (the default).")
@click.option("--int4", is_flag=True, help="4-bit weights: half the size, some loss.")
@click.option("--fp16", is_flag=True, help="Stored as float16, computed in float32.")
@click.option("--fp32", is_flag=True, help="Float32: four times the size, for comparison.")
@click.option(
    "--recipe",
    "named",
    metavar="NAME",
    help="Other weights: int8-dynamic, int8-static, int8-head-fp32, int8-cells, int4-mixed, int4-cells.",
)
@click.option(
    "--calibration",
    type=click.Choice(["minmax", "entropy", "percentile"]),
    help="Of int8-static: how the ranges of activations are chosen. Default: percentile.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "gptq"]),
    help="Of quantised weights. Default: gptq, which spares their products; nearest after training in int8.",
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
    "--tune",
    is_flag=True,
    help="With --int8: store the weights as is fastest here, by measurement; within --max-flip if given.",
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
@click.option(
    "--mobile",
    is_flag=True,
    help="Also for phones, beside the bundle: the model as .ort, what a custom build needs, a report.",
)
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line with the figures at the end.")
def command(
    run: str,
    int8: bool,
    int4: bool,
    fp16: bool,
    fp32: bool,
    named: str | None,
    calibration: Method | None,
    rounding: Rounding | None,
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
    mobile: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export the student of RUN, a directory made by `edgetext distill`, or a Hugging Face MODEL directory.

    MODEL is a decoder with safetensors and a byte-level tokenizer.json: those of Llama's family (Llama,
    Mistral, Qwen 2) and GPT-2's get a graph written for them, others are traced. The graph is compared with
    torch on the run's test split (on --corpus), and the written file must give its golden tokens; a bundle
    that fails either, or misses a gate (--max-…), is not written.
    """
    begun = time.perf_counter()  # importing takes as long as exporting a small student
    from edgetext_export import export_run
    from edgetext_export.gates import Gates

    flags = {"int8": int8, "int4": int4, "fp16": fp16, "fp32": fp32}
    chosen = [*(name for name, given in flags.items() if given), *([named] if named else [])]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} are given together; a bundle has one kind of weights")
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
            chosen[0] if chosen else "fp32" if portable else "int8",
            force,
            target=target,
            tuned=tune,
            gates=Gates(max_mb, max_ms, max_flip, max_perplexity_increase),
            quality_tokens=tokens,
            corpus=corpus,
            context=context,
            discriminator=discriminator,
            mobile=mobile,
            calibration=calibration,
            rounding=rounding,
            portable=portable,
            progress=show,
        )
    click.echo(_figures(report, time.perf_counter() - begun))
    if as_json:
        click.echo(json.dumps(report.to_dict()))


def _figures(report: ExportReport, seconds: float) -> str:
    from edgetext.evaluate.markdown import plain

    quality = report.quality
    change = f"{round(quality.perplexity_increase, 5) + 0.0:+.3%}"  # no negative zero
    rows = [
        ("parameters", f"{report.parameters:,}"),
        ("size", f"{report.bundle_bytes:,} bytes ({report.model_bytes:,} of them the model)"),
        ("perplexity, torch float32", f"{quality.perplexity_fp32:.3f}"),
        ("perplexity, exported", f"{quality.perplexity_exported:.3f} ({change})"),
        ("argmax flips, prompt", f"{quality.flip_rate_prompt:.2%} of {quality.tokens:,} tokens"),
        ("argmax flips, token by token", f"{quality.flip_rate_step:.2%} of {quality.step_tokens:,} tokens"),
        ("logit error, mean / largest", f"{quality.mean_logit_error:.3g} / {quality.max_logit_error:.3g}"),
        *_mobile_rows(report),
        ("golden cases replayed", f"{report.golden_cases}, at 1 and 2 threads"),
        ("seconds", f"{seconds:.1f} ({report.seconds:.1f} of them without imports)"),
    ]
    return plain(f"{report.path} ({report.recipe})", rows)


def _mobile_rows(report: ExportReport) -> list[tuple[str, str]]:
    """What was written for phones, and what a token costs there."""
    from edgetext_export.mobile import mobile_paths

    phone = report.mobile
    if phone is None:
        return []
    takers = [one.accelerator for one in phone.usability if one.verdict != "NO"]
    return [
        ("for phones", ", ".join(path.name for path in mobile_paths(report.path))),
        ("weights read per token", f"{phone.weight_bytes_per_token:,} bytes"),
        ("run it there with", f"the CPU provider{f' or {takers}' if takers else ''}"),
    ]
