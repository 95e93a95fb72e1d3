"""How figures and tables are written: Markdown, columns aligned, three digits, a hundred columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgetext_bench.record import BundleInfo, Record, Run
from edgetext_bench.summary import Figure

COLUMNS = 100
"""Width of text and, as far as file names allow, of tables."""


@dataclass(frozen=True)
class Table:
    """Cells of text, the first ``text_columns`` columns of them to the left."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1

    def markdown(self) -> str:
        """The table with padded columns."""
        cells = [self.head, *self.rows]
        widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(self.head))]
        padded = [
            [
                cell.ljust(width) if column < self.text_columns else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            for row in cells
        ]
        ruler = [
            "-" * width if column < self.text_columns else "-" * (width - 1) + ":"
            for column, width in enumerate(widths)
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], ruler, *padded[1:]))


Block = str | Table | list[str]
"""A paragraph, a table, or the items of a list."""


def markdown(blocks: Iterable[Block]) -> str:
    """Blocks as a Markdown text."""
    texts = []
    for block in blocks:
        if isinstance(block, Table):
            texts.append(block.markdown())
        elif isinstance(block, str):
            texts.append(wrap(block))
        elif block:
            texts.append("\n".join(wrap(line, "- ") for line in block))
    return "\n\n".join(texts) + "\n"


def wrap(text: str, start: str = "") -> str:
    """Break a paragraph into lines, between words only; ``start`` is what marks a list item."""
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def scaled(figure: Figure | None, scale: float, *, interval: bool = False) -> str:
    """A figure in other units, with its interval if asked for and known; a dash for none."""
    if figure is None:
        return "–"
    value = three_digits(figure.value * scale)
    if not interval or figure.low is None or figure.high is None:
        return value
    return f"{value} [{three_digits(figure.low * scale)}, {three_digits(figure.high * scale)}]"


def three_digits(value: float) -> str:
    """Three significant digits, all of those before the point."""
    return f"{value:,.{max(0, 3 - len(str(int(abs(value)))))}f}"


def short_name(record: Record, run: Run) -> str:
    """A bundle and its threads, or where else it ran."""
    place = str(run.threads) if run.provider == "cpu" else f"{run.threads} {run.provider}"
    return f"{record.bundles[run.bundle].file} × {'cuda' if run.provider == 'cuda' else place}"


def run_name(bundles: Sequence[BundleInfo], run: Run) -> str:
    """The same at length."""
    bundle = bundles[run.bundle]
    place = "" if run.provider == "cpu" else f", {run.provider}"
    return f"{bundle.file} ({bundle.precision}), {threads_text(run.threads)}{place}"


def threads_text(count: int) -> str:
    """``1 thread`` or ``2 threads``."""
    return f"{count} thread{'' if count == 1 else 's'}"
