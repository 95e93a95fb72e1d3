"""What the bench commands share: outputs checked before minutes of measuring, and written after them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgetext_bench import Record


def check_outputs(paths: Sequence[Path | None], *, force: bool, drawn: bool) -> None:
    """Refuse now what could not be written later: existing files without ``force``, missing folders."""
    from edgetext_runtime.errors import InputError

    for path in paths:
        if path is not None and path.exists() and not force:
            raise InputError(f"{path} exists already: choose another path, or replace it with --force")
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path.parent} is not a directory; make it first, or choose another path")
    if drawn:
        from edgetext_bench.plots import new_canvas

        new_canvas(1, 1)


def write_outputs(
    records: Sequence[Record],
    *,
    output: Path | None = None,
    plot: Path | None = None,
    html: Path | None = None,
) -> None:
    """Write the first record, its plot, and a page of all; say where on stderr."""
    from edgetext_bench import plot_latency
    from edgetext_runtime.errors import EdgetextError

    try:
        if output is not None:
            output.write_text(records[0].to_json() + "\n", encoding="utf-8")
            click.echo(f"record: {output}", err=True)
        if html is not None:
            from edgetext_bench.page import html_page

            html.write_text(html_page(records), encoding="utf-8")
            click.echo(f"page: {html}", err=True)
    except OSError as error:
        raise EdgetextError(f"cannot write {error.filename}: {error}") from error
    if plot is not None:
        click.echo(f"plot: {plot_latency(records[0], plot)}", err=True)


def read_record(path: Path) -> Record:
    """A bench record from a file.

    Raises:
        InputError: if it cannot be read or is none.
    """
    from edgetext_bench import Record
    from edgetext_runtime.errors import InputError

    try:
        return Record.from_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror}): make it with `edgetext bench … -o`"
        ) from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def counts(name: str, text: str) -> tuple[int, ...]:
    """Read ``1,2`` as counts; empty is none."""
    from edgetext_runtime.errors import InputError

    try:
        return tuple(int(part) for part in text.split(",") if text)
    except ValueError as error:
        raise InputError(f"{name} is {text!r}; allowed are counts with commas (--{name} 1,2)") from error
