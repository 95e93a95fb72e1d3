"""What the measuring scripts of this package share: arguments in, a Markdown table and a JSON record out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgetext_bench.environment import read_environment
from edgetext_runtime.errors import EdgetextError


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every script."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").split("\n")[0])
    made.add_argument(
        "-o", "--output", type=Path, help="write the record (JSON); an existing file is replaced"
    )
    return made


def run(
    made: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Mapping[str, Any]],
    table: Callable[[Mapping[str, Any]], str],
    arguments: Sequence[str] | None = None,
    *,
    label: str = "measured",
) -> int:
    """Measure, print the figures, keep the record.

    Args:
        made: from :func:`parser`.
        measure: gives the figures for the parsed arguments.
        table: the figures for people, in Markdown.
        arguments: of the command line; default: the process's own.
        label: how the figures are got.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = made.parse_args(given)
    shown = [
        Path(word).name if "/" in word or "\\" in word else word for word in given
    ]  # no paths in a record
    command = shlex.join([*made.prog.split(), *shown])
    environment = read_environment()
    try:
        figures = measure(options)
    except EdgetextError as error:
        made.exit(1, f"Error: {error}\n")
    record = {
        "label": label,
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": asdict(environment),
        **figures,
    }
    sys.stdout.write(f"**{label}** with `{command}` on {environment.cpu}\n\n{table(record)}\n")
    if options.output:
        options.output.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0
