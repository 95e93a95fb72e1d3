"""The numpy backend beside ONNX Runtime: speed in turns, and whether both write the same tokens.

``python -m edgetext_bench.backends MODEL-fp32.etx [MODEL-int8.etx]``: one thread each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from edgetext_bench.overhead import step_us
from edgetext_bench.script import parser, run
from edgetext_runtime import Generator


def measure_backends(path: Path, *, rounds: int, tokens: int) -> dict[str, Any]:
    """Microseconds per step of both backends, a figure a round."""
    both = {name: Generator.load(path, threads=1, provider=name) for name in ("cpu", "numpy")}
    samples: dict[str, list[float]] = {name: [] for name in both}
    for number in range(rounds + 1):
        for name, generator in both.items():
            taken = step_us(generator, generator.defaults.sampling, tokens)
            if number:
                samples[name].append(taken)
    return {"bundle": path.name, "precision": both["cpu"].manifest.precision, "us_per_step": samples}


def _table(record: Mapping[str, Any]) -> str:
    lines = [
        "| bundle | ONNX Runtime µs | numpy µs | numpy's share of the speed |",
        "| --- | --: | --: | --: |",
    ]
    for entry in record["bundles"]:
        ort, own = (median(entry["us_per_step"][name]) for name in ("cpu", "numpy"))
        lines.append(f"| {entry['bundle']} | {ort:.1f} | {own:.1f} | {ort / own:.0%} |")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    made = parser("edgetext_bench.backends", __doc__)
    made.add_argument("bundles", type=Path, nargs="+", metavar="MODEL.etx")
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--tokens", type=int, default=2000, help="steps of each backend in a round")

    def measure(options: Any) -> dict[str, Any]:
        paths = options.bundles
        return {"bundles": [measure_backends(p, rounds=options.rounds, tokens=options.tokens) for p in paths]}

    return run(made, measure, _table)


if __name__ == "__main__":
    sys.exit(main())
