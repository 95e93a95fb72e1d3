"""Turns a record into something to look at: Markdown tables and a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetext_bench.record import BundleInfo, Record, Run
from edgetext_bench.summary import CONFIDENCE, Figure, RunSummary, speedups, summarise
from edgetext_runtime.errors import DependencyError, EdgetextError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_BUSY = 0.3
"""Load per core before the measurement from which the machine counts as busy."""
_COLOURS = {"int8": "#0b7a75", "fp32": "#7a5195"}
_OTHER_COLOUR = "#555555"
_COLUMNS = 100
"""Width of text and, as far as file names allow, of tables."""
_WIDE = 8
"""From this ratio of the largest to the smallest latency on, a linear axis shows only the largest."""


def markdown_table(record: Record) -> str:
    """Return the record as Markdown: what was measured, on what, how, the figures, and what to mind."""
    environment, settings = record.environment, record.settings
    flags = f" ({' '.join(environment.cpu_flags)})" if environment.cpu_flags else ""
    quota = "" if environment.cpu_quota is None else f", quota {environment.cpu_quota:g}"
    governor = "" if environment.governor is None else f", governor {environment.governor}"
    prompts = sorted({(run.short_prompt_tokens, run.long_prompt_tokens) for run in record.runs})
    paragraphs = [
        f"**{record.label}** on {record.created} with `{record.command}`",
        f"{environment.cpu}{flags}; "
        f"{environment.usable_cores} of {environment.cores} cores{quota}{governor}; "
        f"{environment.system}, {environment.python}, numpy {environment.numpy}, "
        f"ONNX Runtime {environment.onnxruntime}, edgetext-runtime {environment.edgetext_runtime}.",
        f"{settings.tokens} tokens × {settings.repeats} rounds, top-k {settings.top_k}, "
        f"top-p {settings.top_p:g}, temperature {settings.temperature:g}; bundles take turns. "
        f"Prompts of {' and '.join(f'{short} / {long}' for short, long in prompts)} tokens (short / long). "
        f"Values are medians unless a percentile is named; [ ] is a {CONFIDENCE:.0%} bootstrap interval "
        "over rounds.",
    ]
    runs = [(run, summarise(run)) for run in record.runs]
    blocks = [
        *map(_wrap, paragraphs),
        _bundle_table(record.bundles),
        _wrap("Time per token in µs, sampling and text included; session: the graph alone."),
        _decode_table(record, runs),
        _wrap(
            "Start-up in ms: first and second load of the bundle; cold start: from the start of a process to "
            "its first token; TTFT: from a prompt to its first token. Memory: most resident, in MB."
        ),
        _start_table(record, runs),
        *_lines(_speedup_lines(record)),
        *_lines(f"Note: {note}" for note in notes(record)),
    ]
    return "\n\n".join(blocks) + "\n"


def notes(record: Record) -> list[str]:
    """Return what a reader must know before trusting the figures."""
    environment = record.environment
    found = []
    cores = environment.usable_cores
    if environment.cpu_quota is not None:
        cores = min(cores, max(1, int(environment.cpu_quota)))
    if environment.load_average is not None and environment.load_average > _BUSY * environment.cores:
        found.append(
            f"the machine was busy before the measurement (load {environment.load_average:.1f} on "
            f"{environment.cores} cores): absolute figures are pessimistic"
        )
    over = sorted({run.threads for run in record.runs if run.threads > cores})
    if over:
        found.append(f"{', '.join(map(str, over))} threads share {cores} usable cores: not a fair figure")
    for run in record.runs:
        name = _run_name(record.bundles, run.bundle, run.threads)
        if not run.converged:
            found.append(f"{name} had not settled after {run.warmup_rounds} warm-up rounds")
    for number, bundle in enumerate(record.bundles):
        rounds = [r for run in record.runs if run.bundle == number for r in run.rounds]
        pieces, tokens = sum(len(r.stream_ns) for r in rounds), sum(r.stream_tokens for r in rounds)
        if pieces < 0.95 * tokens:
            found.append(
                f"{bundle.file}: a piece of its stream took {tokens / max(pieces, 1):.2f} tokens on average "
                "(parts of characters show nothing), so p50 to p99 are above the time per token"
            )
    return found


def plot_latency(record: Record, path: str | Path) -> Path:
    """Draw the time per token of every bundle and thread count: p50, p90, p99, with the interval of the p50.

    Args:
        record: what was measured.
        path: where to write; the suffix chooses the format (.png, .svg, .pdf). Replaced if it exists.

    Returns:
        The path written.

    Raises:
        DependencyError: matplotlib is not installed.
        EdgetextError: the file cannot be written.
    """
    rows = [summarise(run) for run in record.runs]
    canvas = new_canvas(width=8, height=2.1 + 0.55 * len(rows))
    axes = canvas.subplots()
    for place, row in enumerate(reversed(rows)):
        precision = record.bundles[row.bundle].precision
        _draw_row(axes, place, row, _COLOURS.get(precision, _OTHER_COLOUR))
    _draw_key(axes)
    names = [_run_name(record.bundles, row.bundle, row.threads) for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    figures = [row.token_s or row.step_s for row in rows]
    wide = max(row["p99"].value for row in figures) > _WIDE * min(row["p50"].value for row in figures)
    axes.margins(x=0.12)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.set_xlim(left=0)
    scale = ", logarithmic scale" if wide else ""
    axes.set_xlabel(f"µs per token, sampling and text included (lower is better{scale})")
    canvas.suptitle("Time per token", x=0.02, ha="left", fontweight="bold")
    canvas.supxlabel(
        f"{record.label}: {record.environment.cpu}, ONNX Runtime {record.environment.onnxruntime}, "
        f"{record.settings.tokens} tokens × {record.settings.repeats} rounds",
        fontsize=7,
        color="#666666",
    )
    axes.grid(axis="x", which="both" if wide else "major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    try:
        canvas.savefig(path)
    except (OSError, ValueError) as error:
        raise EdgetextError(f"cannot write the plot {path}: {error}") from error
    return Path(path)


def new_canvas(width: float, height: float) -> Canvas:
    """Return an empty figure of a size in inches that needs no display.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise DependencyError("plots need matplotlib: pip install 'edgetext[train]'") from error
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    canvas = Canvas(figsize=(width, height), dpi=150, layout=layout)
    FigureCanvasAgg(canvas)
    return canvas


def _draw_row(axes: Axes, y: int, row: RunSummary, colour: str) -> None:
    """Draw a line from p50 to p99: the p50 as a filled dot, its interval as a band, the p90 as a ring."""
    figures = row.token_s or row.step_s
    p50, p90, p99 = (figures[name].value * 1e6 for name in ("p50", "p90", "p99"))
    axes.plot([p50, p99], [y, y], color=colour, linewidth=1.5, alpha=0.6, zorder=2)
    middle = figures["p50"]
    if middle.low is not None and middle.high is not None:
        interval = [middle.low * 1e6, middle.high * 1e6]
        axes.plot(interval, [y, y], color=colour, linewidth=8, alpha=0.3, solid_capstyle="butt", zorder=1)
    for value, (_, marker) in zip((p50, p90, p99), _marks(colour), strict=True):
        axes.plot([value], [y], linestyle="none", zorder=3, **marker)
    for value, weight, side in ((p50, "bold", "center"), (p99, "normal", "left")):
        offset = (0, 8) if side == "center" else (7, -3)
        text = f"{value:,.0f}"
        axes.annotate(
            text,
            (value, y),
            xytext=offset,
            textcoords="offset points",
            ha=side,
            color=colour,
            fontweight=weight,
        )


def _marks(colour: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return how each percentile is marked."""
    ring = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.6}
    return (
        ("p50", {"marker": "o", "markersize": 8, "color": colour}),
        ("p90", {"marker": "o", "markersize": 6, **ring}),
        ("p99", {"marker": "|", "markersize": 9, "color": colour, "markeredgewidth": 2}),
    )


def _draw_key(axes: Axes) -> None:
    """Explain the marks, in grey, above the plot."""
    for name, marker in _marks(_OTHER_COLOUR):
        axes.plot([], [], linestyle="none", label=name, **marker)
    axes.plot(
        [], [], color=_OTHER_COLOUR, linewidth=8, alpha=0.3, label=f"{CONFIDENCE:.0%} interval of the p50"
    )
    axes.figure.legend(loc="upper right", ncols=4, frameon=False, fontsize=8)


def _bundle_table(bundles: Sequence[BundleInfo]) -> str:
    def quality(bundle: BundleInfo, *keys: str) -> float | None:
        value: Any = bundle.quality
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return float(value) if isinstance(value, int | float) else None

    rows = []
    for bundle in bundles:
        perplexity = quality(bundle, "perplexity", "exported")
        increase = quality(bundle, "perplexity_increase")
        flips = quality(bundle, "flip_rate", "step")
        rows.append(
            (
                bundle.file,
                bundle.architecture,
                bundle.precision,
                f"{bundle.parameters:,}",
                f"{bundle.bytes / 1e6:.2f}",
                "–" if perplexity is None else f"{perplexity:.3f}",
                "–" if increase is None else f"{increase:+.2%}",
                "–" if flips is None else f"{flips:.2%}",
            )
        )
    head = ("bundle", "model", "precision", "parameters", "MB", "perplexity", "vs fp32", "flips")
    recipes = [f"{bundle.file}: {bundle.recipe}" for bundle in bundles if bundle.precision != "fp32"]
    explained = "Flips: share of steps whose likeliest token is not that of float32 in torch."
    if recipes:
        explained += f" Quantisation of {'; of '.join(recipes)}."
    return f"{_table(head, rows, text_columns=3)}\n\n{_wrap(explained)}"


def _decode_table(record: Record, runs: Sequence[tuple[Run, RunSummary]]) -> str:
    rows = []
    for run, row in runs:
        stream = row.token_s or {}
        rows.append(
            (
                _short_name(record, run),
                _scaled(stream.get("p50"), 1e6, interval=True),
                *(_scaled(stream.get(name), 1e6) for name in ("p90", "p99")),
                _scaled(row.step_s["p50"], 1e6),
                _scaled(row.tokens_per_s, 1),
            )
        )
    head = ("bundle × threads", "p50", "p90", "p99", "session p50", "tokens/s")
    return _table(head, rows, text_columns=1)


def _start_table(record: Record, runs: Sequence[tuple[Run, RunSummary]]) -> str:
    rows = [
        (
            _short_name(record, run),
            *(_scaled(figure, 1e3) for figure in (row.load_s, row.reload_s, row.first_token_s)),
            *(_scaled(figure, 1e3) for figure in (row.ttft_short_s, row.ttft_long_s)),
            "–" if run.peak_rss_bytes is None else f"{run.peak_rss_bytes / 1e6:.0f}",
        )
        for run, row in runs
    ]
    head = (
        *("bundle × threads", "first load", "second load", "cold start"),
        *("TTFT short", "TTFT long", "memory"),
    )
    return _table(head, rows, text_columns=1)


def _speedup_lines(record: Record) -> Iterable[str]:
    for speedup in speedups(record):
        bundle, reference = record.bundles[speedup.bundle], record.bundles[speedup.reference]
        times = _scaled(speedup.stream or speedup.step, 1, interval=True)
        yield (
            f"{_threads(speedup.threads)}: {bundle.file} decodes {times}× as fast as {reference.file} "
            f"(session only {_scaled(speedup.step, 1, interval=True)}×); "
            f"file size {bundle.bytes / reference.bytes:.1%}."
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    """Return a Markdown table with padded columns, the first ``text_columns`` of them to the left."""
    cells = [head, *rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    padded = [
        [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    ruler = [
        "-" * width if column < text_columns else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], ruler, *padded[1:]))


def _wrap(text: str, start: str = "") -> str:
    """Break a paragraph into lines, between words only; ``start`` is what marks a list item."""
    return textwrap.fill(
        text,
        _COLUMNS,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _lines(lines: Iterable[str]) -> list[str]:
    text = "\n".join(_wrap(line, "- ") for line in lines)
    return [text] if text else []


def _scaled(figure: Figure | None, scale: float, *, interval: bool = False) -> str:
    if figure is None:
        return "–"
    value = _three_digits(figure.value * scale)
    if not interval or figure.low is None or figure.high is None:
        return value
    return f"{value} [{_three_digits(figure.low * scale)}, {_three_digits(figure.high * scale)}]"


def _three_digits(value: float) -> str:
    return f"{value:,.{max(0, 3 - len(str(int(abs(value)))))}f}"


def _short_name(record: Record, run: Run) -> str:
    return f"{record.bundles[run.bundle].file} × {run.threads}"


def _run_name(bundles: Sequence[BundleInfo], bundle: int, threads: int) -> str:
    return f"{bundles[bundle].file} ({bundles[bundle].precision}), {_threads(threads)}"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
