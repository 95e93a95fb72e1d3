"""Mean and spread over runs that differ in their seed: ``python docs/results/seeds.py FOLDER…``.

Reads the records beside this file and prints one Markdown table: mean ± standard deviation over the runs.
"""

import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = ("valid_perplexity", "test_perplexity", "quality_kept", "agreement")


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, three significant figures."""
    return f"{statistics.fmean(values):.3g} ± {statistics.stdev(values):.2g}"


def main(folders: list[str]) -> None:
    """Print the table of the given folders."""
    if len(folders) < 2:
        raise SystemExit("usage: python docs/results/seeds.py FOLDER FOLDER… (at least two runs)")
    results = [json.loads((HERE / name / "result.json").read_text()) for name in folders]
    print(f"| model ({len(folders)} seeds) | params | valid ppl | test ppl | kept | agree |")
    print("|---|--:|--:|--:|--:|--:|")
    for index, row in enumerate(results[0]["models"]):
        rows = [result["models"][index] for result in results]
        cells = [spread([float(r[column]) for r in rows]) for column in COLUMNS]
        print(f"| {row['name']} | {row['parameters']:,} | {' | '.join(cells)} |")
    print()
    for name, result in zip(folders, results, strict=True):
        verdict = result["refinement"]
        print(f"- {name}: the referee {verdict['reason']}.")


if __name__ == "__main__":
    main(sys.argv[1:])
