"""``edgetext export``: a run's student as a checked, quantised ONNX bundle."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgetext_export.bundle import ExportReport


@click.command(short_help="Write a student as a checked, quantised ONNX bundle (.etx).")
@click.argument("run", metavar="RUN", type=click.Path(path_type=str))
@click.option("--int8", "precision", flag_value="int8", default="int8", help="8-bit weights (the default).")
@click.option("--fp32", "precision", flag_value="fp32", help="Float32: four times the size, for comparison.")
@click.option("-o", "--output", type=click.Path(path_type=str), help="Default: RUN/student-PRECISION.etx.")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    metavar="N",
    help="Most test tokens to measure the quality on.",
)
@click.option("--discriminator", is_flag=True, help="With the run's discriminator, for --best-of.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line with the figures at the end.")
def command(
    run: str, precision: str, output: str | None, tokens: int, discriminator: bool, force: bool, as_json: bool
) -> None:
    """Export the student of RUN, a directory made by `edgetext distill`.

    The graph is compared with torch on the run's test split, and the written file must give its golden
    tokens; a bundle that fails either is not written.
    """
    from edgetext_export import export_run

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
            "fp32" if precision == "fp32" else "int8",
            force,
            quality_tokens=tokens,
            discriminator=discriminator,
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
    return plain(f"{report.path} ({report.precision})", rows)
