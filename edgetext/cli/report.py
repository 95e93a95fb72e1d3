"""``edgetext report``: rebuild a run's report from its records."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Rebuild report.md and its plots from a run's records.")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--bench",
    "record_path",
    type=click.Path(path_type=Path),
    help="Latency record to include.  [default: RUN/bench.json if it exists]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the report's path and rows as one JSON line last."
)
def command(run: Path, record_path: Path | None, as_json: bool) -> None:
    """Rebuild report.md and its plots in RUN, a directory made by `edgetext distill`.

    Bundles in RUN and a latency record made with `edgetext bench … -o RUN/bench.json` are included. The
    latency section is kept as RUN/bench.md: a later `edgetext distill --resume` includes it again.
    """
    import json

    from edgetext.checkpoint import read_json, write_atomic
    from edgetext.errors import CheckpointError
    from edgetext.evaluate.report import LATENCY_FILE, bundles, side_by_side, write_report

    result = read_json(run / "result.json")
    chosen = record_path or run / "bench.json"
    if record_path is not None and not chosen.exists():
        raise CheckpointError(f"{chosen} does not exist; make it with `edgetext bench … -o {chosen}`")
    if chosen.exists():
        from edgetext_bench import Record, markdown_table, plot_latency

        record = Record.from_json(chosen.read_text(encoding="utf-8"))
        write_atomic(run / LATENCY_FILE, markdown_table(record).encode())
        (run / "plots").mkdir(exist_ok=True)
        plot_latency(record, run / "plots" / "latency.png")
    path = write_report(run)
    exported = bundles(run)
    click.echo(f"{side_by_side(result, exported)}\n\nreport: {path}")
    if as_json:
        click.echo(json.dumps({"report": str(path), "models": result["models"], "bundles": exported}))
