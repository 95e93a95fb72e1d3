"""Keep the records of a sweep as one file: ``python docs/results/keep_sweep.py SWEEP TARGET.json``.

For every finished run its configuration, the figures of its models, its stages' times and best steps,
the referee's verdict, and the quality record and size of its int8 bundle. Weights, bundles and token streams
stay behind.
"""

import json
import sys
from pathlib import Path
from typing import Any

from edgetext_runtime.bundle import read_bundle

BUNDLE = "student-int8.etx"


def record(run: Path) -> dict[str, Any]:
    """What is kept of one run."""
    result = json.loads((run / "result.json").read_text())
    stages = {
        path.parent.name: {
            name: value for name, value in json.loads(path.read_text()).items() if name != "fingerprint"
        }
        for path in sorted(run.glob("*/stage.json"))
    }
    kept: dict[str, Any] = {
        "name": run.name,
        "config": json.loads((run / "config.json").read_text()),
        "label": result["label"],
        "machine": result["machine"],
        "protocol": result["protocol"],
        "student": result["student"],
        "models": result["models"],
        "stages": stages,
        **({"refinement": result["refinement"]} if result["refinement"] else {}),
    }
    if (run / BUNDLE).exists():
        quality = json.loads(read_bundle(run / BUNDLE).members["quality.json"])
        kept["bundle"] = {"bytes": (run / BUNDLE).stat().st_size, "quality": quality}
    return kept


def main() -> None:
    """Write the file."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python docs/results/keep_sweep.py SWEEP TARGET.json")
    runs = [path.parent for path in sorted(Path(sys.argv[1]).glob("*/result.json"))]
    if not runs:
        raise SystemExit(f"{sys.argv[1]} has no finished runs")
    lines = ",\n".join(json.dumps(record(run)) for run in runs)
    Path(sys.argv[2]).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
