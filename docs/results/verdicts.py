"""The referee's verdicts of a kept sweep as a table: ``python docs/results/verdicts.py KEPT.json``.

Every row is a refinement against its own distilled parent: change of the reverse-LM score where the LM
scores are the same, and the other way round, mean over what the sweeps of both reach ± standard error over
the sample sets.
"""

import json
import sys
from pathlib import Path
from typing import Any

from edgetext.evaluate.dominance import matched_gains, standard_error

HEAD = (
    *("", "discriminator", "objective", "steps", "told apart", "reverse-LM at the same LM"),
    *("LM at the same reverse-LM", "held-out perplexity", "verdict"),
)


def change(verdict: dict[str, Any], first: str, second: str) -> str:
    """Change of the second score where the first is the same."""
    new, old = (
        [[(point[first], point[second]) for point in sweep] for sweep in verdict[side]]
        for side in ("challenger", "incumbent")
    )
    gains = matched_gains(new, old)[1].mean(1)
    return f"{-gains.mean():+.3f} ± {float(standard_error(gains)):.3f}"


def row(run: dict[str, Any]) -> list[str]:
    """One run's cells."""
    rules, verdict = run["config"]["refine"], run["refinement"]
    stage = run["stages"].get("opponent") or {}
    told = f"{stage['told_apart']:.0%}" if "told_apart" in stage else "–"
    before, after = (
        next(model["valid_perplexity"] for model in run["models"] if model["name"] == name)
        for name in ("distilled", "refined")
    )
    return [
        run["name"],
        rules["discriminator"]["kind"],
        rules["objective"] + (", feature matching" if rules["matching"] else ""),
        f"{run['stages']['refined']['best_step']} of {run['config']['refine_steps']}",
        told,
        change(verdict, "lm_score", "reverse_lm_score"),
        change(verdict, "reverse_lm_score", "lm_score"),
        f"{before:.2f} → {after:.2f}",
        "taken" if run["student"] == "refined" else "kept parent",
    ]


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/results/verdicts.py KEPT.json")
    runs = [run for run in json.loads(Path(sys.argv[1]).read_text()) if "refinement" in run]
    for cells in (HEAD, ["---"] * len(HEAD), *map(row, runs)):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
