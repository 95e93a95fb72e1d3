"""Copy the records of a finished run into docs/results: ``python docs/results/keep.py RUN NAME``.

Takes what the report is made of (result, configuration, corpus record, metrics, bench record, report, plots)
and leaves weights, bundles and token streams behind.
"""

import shutil
import sys
from pathlib import Path

RECORDS = ("report.md", "result.json", "config.json", "corpus.json", "bench.json", "bench.md")
STAGES = ("teacher", "distilled", "refined")


def keep(run: Path, target: Path) -> None:
    """Copy the records of `run` to `target`, replacing what is there."""
    if not (run / "result.json").exists():
        raise SystemExit(f"{run} is not a finished run: it has no result.json")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in RECORDS:
        if (run / name).exists():
            shutil.copy(run / name, target / name)
    shutil.copytree(run / "plots", target / "plots")
    for stage in STAGES:
        if (run / stage / "metrics.jsonl").exists():
            (target / stage).mkdir()
            shutil.copy(run / stage / "metrics.jsonl", target / stage / "metrics.jsonl")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python docs/results/keep.py RUN NAME")
    keep(Path(sys.argv[1]), Path(__file__).parent / sys.argv[2])
