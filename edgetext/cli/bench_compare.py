"""``edgetext bench compare``: what changed between A and B, and whether it is beyond noise."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("bench compare")
@click.argument("before", type=click.Path(path_type=Path), metavar="A")
@click.argument("after", type=click.Path(path_type=Path), metavar="B")
@click.option("--threads", default="1", show_default=True, help="Of bundles: thread counts, with commas.")
@click.option("--repeats", default=15, show_default=True, help="Of bundles: rounds, each in fresh processes.")
@click.option("--tokens", default=200, show_default=True, help="Of bundles: tokens to decode per round.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON line at the end.")
def command(before: Path, after: Path, threads: str, repeats: int, tokens: int, as_json: bool) -> None:
    """Compare two bench records of one machine, or two bundles that are measured in turns now.

    Records are compared over the pace of the machine, a fixed piece of work that took its turn in every
    round, so that a machine that has become slower does not count as a change. A difference is called slower
    or faster if it is above 5 % and its interval does not reach 1. Records of different machines are refused.

    Example: edgetext bench compare before.json after.json
    """
    import json
    from dataclasses import asdict

    from edgetext.cli._bench import counts, read_record
    from edgetext_bench import Settings, bench
    from edgetext_bench.comparison import compare_bundles, compare_records, comparison_text, differences
    from edgetext_runtime.errors import InputError

    records = [path.suffix == ".json" for path in (before, after)]
    if records[0] != records[1]:
        raise InputError(f"{before} and {after}: give two records (.json) or two bundles")
    also: list[str] = []
    if records[0]:
        one, other = read_record(before), read_record(after)
        found, also = compare_records(one, other), differences(one, other)
    else:
        settings = Settings(
            threads=counts("threads", threads), repeats=repeats, tokens=tokens, depths=(), batches=()
        )
        record = bench([before, after], settings, progress=lambda line: click.echo(line, err=True))
        found = compare_bundles(record)
    click.echo(comparison_text(found, also))
    if as_json:
        verdicts = [{**asdict(one), "verdict": one.verdict} for one in found]
        click.echo(json.dumps({"comparisons": verdicts, "also_different": also}))
