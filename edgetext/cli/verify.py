"""``edgetext verify``: replay the golden tokens of a bundle on this machine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgetext_export.golden import Replay


@click.command(short_help="Replay a bundle's golden tokens on this machine.")
@click.argument("model", metavar="MODEL.etx", type=click.Path(path_type=str))
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Threads."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line with the results at the end.")
def command(model: str, threads: int, as_json: bool) -> None:
    """Generate the golden cases of MODEL.etx again and compare; exit code 1 if any token differs.

    Tokens of an int8 model may depend on the CPU's instruction set; where they differ, both machines are
    named.
    """
    from edgetext_export import kernel, recorded_kernel, replay
    from edgetext_runtime import Generator

    generator = Generator.load(model, threads=threads)
    results = replay(generator)
    for number, result in enumerate(results):
        click.echo(f"case {number} {_name(result)}: {_verdict(result)}")
    here, there = kernel(), recorded_kernel(generator)
    failed = sum(not result.equal for result in results)
    if failed:
        click.echo(f"{failed} of {len(results)} cases differ")
        click.echo(f"recorded on {_describe(there)}; this is {_describe(here)}")
        if here != there:
            click.echo("other instruction sets run other int8 kernels: small differences can be honest ones")
    else:
        click.echo(f"all {len(results)} cases give their golden tokens")
    if as_json:
        cases = [{"equal": result.equal, "first_difference": result.first_difference} for result in results]
        click.echo(json.dumps({"failed": failed, "cases": cases, "kernel": here, "recorded_kernel": there}))
    sys.exit(1 if failed else 0)


def _name(result: Replay) -> str:
    settings = result.case.settings
    if settings.get("temperature") == 0:
        return f"(greedy, {len(result.case.tokens)} tokens)"
    return f"(sampled, seed {settings['seed']}, {len(result.case.tokens)} tokens)"


def _verdict(result: Replay) -> str:
    if result.equal:
        return "equal"
    if result.prompt_tokens != result.case.prompt_tokens:
        return "the prompt is coded into other tokens"
    return f"first difference at token {result.first_difference}"


def _describe(kernel: dict[str, Any]) -> str:
    if not kernel:
        return "a machine that was not recorded"
    return f"{kernel.get('machine', 'unknown')} ({', '.join(kernel.get('isa', [])) or 'no features known'})"
