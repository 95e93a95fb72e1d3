"""Figures of a record: time per token, prompts, batches, depths, the sustained window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetext_bench.record import Record
from edgetext_bench.summary import CONFIDENCE, RunSummary, summarise
from edgetext_bench.wording import run_name, short_name
from edgetext_runtime.errors import DependencyError, EdgetextError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_COLOURS = {"int8": "#0b7a75", "fp32": "#7a5195", "int4": "#c2571a"}
_OTHER_COLOUR = "#555555"
_WIDE = 8
"""From this ratio of the largest to the smallest latency on, a linear axis shows only the largest."""


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
    canvas = latency_figure(record)
    try:
        canvas.savefig(path)
    except (OSError, ValueError) as error:
        raise EdgetextError(f"cannot write the plot {path}: {error}") from error
    return Path(path)


def latency_figure(record: Record) -> Canvas:
    """The time per token of every run, p50 to p99."""
    rows = [summarise(run) for run in record.runs]
    canvas = new_canvas(width=8, height=2.1 + 0.55 * len(rows))
    axes = canvas.subplots()
    for place, row in enumerate(reversed(rows)):
        precision = record.bundles[row.bundle].precision
        _draw_row(axes, place, row, _COLOURS.get(precision, _OTHER_COLOUR))
    _draw_key(axes)
    names = [run_name(record.bundles, run) for run in reversed(record.runs)]
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
    return canvas


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


def curves(record: Record) -> list[tuple[str, Canvas]]:
    """A figure with a title for each thing that was swept: prompts, batches, depths, the sustained window."""
    rows = [(run, summarise(run)) for run in record.runs]
    lines: list[
        tuple[str, str, str, Callable[[Any, RunSummary], tuple[Sequence[float], Sequence[float]]]]
    ] = [
        (
            "Time to first token",
            "tokens of the prompt",
            "ms",
            lambda run, row: (run.prompts, [figure.value * 1e3 for figure in row.ttft_s]),
        ),
        (
            "Batches: time per token",
            "sequences in a step",
            "µs per token",
            lambda run, row: (run.batches, [figure.value * 1e6 for figure in row.batch_token_s]),
        ),
        (
            "Depth: time of a step",
            "tokens before it",
            "µs",
            lambda run, row: (run.depths, [figure.value * 1e6 for figure in row.depth_s]),
        ),
        (
            "Sustained decoding",
            "seconds",
            "µs per step, median of a second",
            lambda run, row: (
                (run.sustained.end_s, [ns / 1e3 for ns in run.sustained.p50_ns])
                if run.sustained
                else ((), ())
            ),
        ),
    ]
    made = []
    for title, across, up, points in lines:
        series = [(short_name(record, run), run, points(run, row)) for run, row in rows]
        if any(len(x) > 1 for _, _, (x, _) in series):
            made.append((title, _curve(record, title, across, up, series)))
    return made


def _curve(record: Record, title: str, across: str, up: str, series: Sequence[Any]) -> Canvas:
    canvas = new_canvas(width=5.4, height=3.6)
    axes = canvas.subplots()
    for name, run, (x, y) in series:
        bundle = record.bundles[run.bundle]
        style = "-" if bundle.architecture != "transformer" else "--"
        axes.plot(
            x,
            y,
            style,
            label=name,
            color=_COLOURS.get(bundle.precision, _OTHER_COLOUR),
            marker="os^D"[(run.threads - 1) % 4] if len(x) < 20 else None,
            markersize=4,
            linewidth=1.4,
        )
    axes.set(xlabel=across, ylabel=up)
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    axes.grid(color="#dddddd", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=6, frameon=False, ncols=1 + (len(series) > 6))
    return canvas
