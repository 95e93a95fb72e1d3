"""How long ``--help`` takes: ``python -m edgetext_bench.startup``.

Every command's help is run in fresh processes, as a user would run it, beside ``import edgetext`` and an
interpreter that does nothing; the difference to the latter is what the code itself costs. Commands are taken
from the help text, so that a new one is measured without being listed here.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from edgetext_bench.environment import read_environment
from edgetext_runtime.errors import DependencyError, EdgetextError, InputError

PROGRAM = (sys.executable, "-m", "edgetext")
NOTHING = "python -c pass"
LIMIT_S = 0.3
"""What every help must stay below."""


@dataclass(frozen=True)
class Startup:
    """The wall-clock times of one command line in fresh processes."""

    command: str
    """What was run."""
    seconds: tuple[float, ...]
    """One sample per process, in order."""

    @property
    def median_s(self) -> float:
        """Median of the samples."""
        return median(self.seconds)

    @property
    def max_s(self) -> float:
        """Largest sample."""
        return max(self.seconds)


def commands() -> list[str]:
    """Return the names of edgetext's commands, as its help lists them.

    Raises:
        DependencyError: edgetext is not installed here.
        EdgetextError: its help lists no commands.
    """
    shown = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=False)
    if shown.returncode:
        raise DependencyError(
            f"`edgetext --help` failed: {shown.stderr.strip()[-500:]}\nIs it installed? pip install edgetext"
        )
    names = parse_commands(shown.stdout)
    if not names:
        raise EdgetextError("`edgetext --help` lists no commands")
    return names


def parse_commands(help_text: str) -> list[str]:
    """Return the names in the "Commands:" section of a click help text."""
    _, _, section = help_text.partition("\nCommands:\n")
    return re.findall(r"^ {2}([a-z][a-z0-9-]*(?: [a-z]+)?)(?: {2}|$)", section, re.MULTILINE)


def measure_startup(repeats: int = 7) -> list[Startup]:
    """Time the help of every command, all taking turns; one round before the first is not counted.

    Raises:
        InputError: ``repeats`` is below 1.
        EdgetextError: a command line failed.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; allowed is 1 or more (--repeats 7)")
    lines = {
        NOTHING: [sys.executable, "-c", "pass"],
        "import edgetext": [sys.executable, "-c", "import edgetext"],
        "edgetext --help": [*PROGRAM, "--help"],
        **{f"edgetext {name} --help": [*PROGRAM, *name.split(), "--help"] for name in commands()},
    }
    samples: dict[str, list[float]] = {name: [] for name in lines}
    for number in range(repeats + 1):
        for name, line in lines.items():
            begin = perf_counter()
            done = subprocess.run(line, capture_output=True, check=False)
            seconds = perf_counter() - begin
            if done.returncode:
                raise EdgetextError(f"`{name}` failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
            if number:
                samples[name].append(seconds)
    return [Startup(name, tuple(values)) for name, values in samples.items()]


def startup_table(results: Sequence[Startup]) -> str:
    """Return the times as Markdown, in milliseconds."""
    lines = ["| command | median ms | max ms |", "| --- | --: | --: |"]
    lines += [f"| `{r.command}` | {r.median_s * 1e3:.0f} | {r.max_s * 1e3:.0f} |" for r in results]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement; 1 if a median is above the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m edgetext_bench.startup", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--repeats", type=int, default=7, help="fresh processes per command (default: 7)")
    parser.add_argument(
        "-o", "--output", type=Path, help="write the samples (JSON); an existing file is replaced"
    )
    parser.add_argument("--json", action="store_true", help="print the samples as one JSON line at the end")
    options = parser.parse_args(arguments)
    try:
        results = measure_startup(options.repeats)
    except EdgetextError as error:
        parser.exit(1, f"Error: {error}\n")
    environment = read_environment()
    document = json.dumps(
        {
            "label": "measured",
            "environment": asdict(environment),
            "results": [asdict(result) for result in results],
        }
    )
    slow = [r.command for r in results if r.median_s > LIMIT_S]
    verdict = f"above {LIMIT_S} s: {', '.join(slow)}" if slow else f"all medians are below {LIMIT_S} s"
    sys.stdout.write(
        f"**measured** with `python -m edgetext_bench.startup --repeats {options.repeats}` on "
        f"{environment.cpu}, {environment.python}: {verdict}\n\n{startup_table(results)}\n"
    )
    if options.output:
        options.output.write_text(document + "\n", encoding="utf-8")
    if options.json:
        sys.stdout.write(document + "\n")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
