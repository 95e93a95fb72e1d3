"""One HTML page of records: tables and plots, nothing to load from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from edgetext_bench.plots import curves, latency_figure
from edgetext_bench.record import Record
from edgetext_bench.report import blocks, where
from edgetext_bench.wording import Block, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_STYLE = """
:root { color-scheme: light; --ink: #1d2330; --soft: #5b6475; --line: #dfe3ea; --tint: #f5f7fa; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 72rem; }
body { margin: 0 auto; padding: 2rem 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .4rem; border-top: 2px solid; padding-top: .8rem; }
p { margin: .7rem 0; max-width: 54rem; color: var(--soft); }
p strong { color: #0b7a75; }
code { background: var(--tint); padding: .05rem .3rem; border-radius: 3px; }
code { color: var(--ink); overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th { text-align: right; font-weight: 600; border-bottom: 1.5px solid; }
td { text-align: right; border-bottom: 1px solid var(--line); }
th, td { padding: .3rem .8rem; white-space: nowrap; }
.text { text-align: left; }
tbody tr:hover { background: var(--tint); }
li { color: var(--soft); max-width: 54rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
.plots > :first-child { grid-column: 1 / -1; max-width: 46rem; }
svg { width: 100%; height: auto; }
"""


def html_page(records: Sequence[Record]) -> str:
    """A page that needs no other file; records stand one after the other and are never mixed.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    parts = [_record(record, f"r{number}") for number, record in enumerate(records)]
    bundles = dict.fromkeys(bundle.file for record in records for bundle in record.bundles)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>edgetext bench</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>edgetext bench</h1>\n"
        f"<p>{escape(', '.join(bundles))}</p>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _record(record: Record, prefix: str) -> str:
    title = f"{record.label} · {record.environment.cpu}" + (f" · {where(record)}" if where(record) else "")
    figures = [latency_figure(record), *(canvas for _, canvas in curves(record))] if record.runs else []
    plots = "".join(f"<div>{_svg(canvas, f'{prefix}f{n}')}</div>" for n, canvas in enumerate(figures))
    shown = f'<div class="plots">{plots}</div>\n' if plots else ""
    first, *rest = blocks(record)
    body = "\n".join(_html(block) for block in rest)
    return f"<section>\n<h2>{escape(title)}</h2>\n{_html(first)}\n{shown}{body}\n</section>"


def _svg(canvas: Canvas, prefix: str) -> str:
    """A figure as an SVG element whose ids are its own, as several stand in one page."""
    from matplotlib import rc_context

    text = StringIO()
    with rc_context({"svg.hashsalt": prefix, "svg.fonttype": "path"}):
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def _html(block: Block) -> str:
    if isinstance(block, Table):
        return f'<div class="wide">{_table(block)}</div>'
    if isinstance(block, str):
        return f"<p>{_inline(block)}</p>"
    return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in block)}</ul>" if block else ""


def _table(block: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if column < block.text_columns else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>\n" for cells in block.rows)
    return f"<table><thead><tr>{row(block.head, 'th')}</tr></thead>\n<tbody>{body}</tbody></table>"


def _inline(text: str) -> str:
    """Bold and code as Markdown has them, everything else as it is."""
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
