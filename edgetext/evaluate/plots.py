"""The figures of a run's report, drawn from its records alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetext_runtime.errors import DependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "teacher": "#555555",
    "distilled": "#0b7a75",
    "refined": "#d1495b",
    "quantized": "#e0a100",
    "people": "#7a5195",
}
"""One colour per model, the same in every figure; others get theirs in turn."""
STAGES = ("teacher", "assistant", "distilled", "refined", "quantized")
"""Kinds of stages in the order of a run; of several of a kind each has its number at its end."""
SMOOTHING = 9
"""Steps over which the share told apart is averaged: a single batch holds few texts."""


def plot_losses(directory: Path, path: Path) -> bool:
    """Draw the validation loss of every stage that left a record, and the course of the adversarial game.

    The game is drawn as the share of texts that the discriminator tells apart. False if no stage left a
    record; raises DependencyError without matplotlib.
    """
    stages = _stages(directory)
    if not any(stages.values()):
        return False
    canvas = canvas_of(9, 3.6)
    left, right = canvas.subplots(1, 2)
    finish_axes(left, "Validation loss", "step", "nats per token (lower is better)")
    drawn = [name for name, records in stages.items() if _draw_likelihood(left, name, records)]
    if drawn:
        left.margins(y=0.12)
        left.legend(frameon=False, fontsize=8 if len(drawn) > 3 else None)
    else:
        _say(left, "no validation was recorded")
    finish_axes(right, "Refinement: discriminator", "step", f"share told apart, mean of {SMOOTHING} steps")
    _draw_game(right, _metrics(directory / "opponent" / "metrics.jsonl") or stages.get("refined", []))
    canvas.savefig(path)
    return True


def plot_frontier(frontier: dict[str, Any], path: Path) -> None:
    """Draw quality against diversity for every model's temperature sweep, with people's texts beside them."""
    canvas = canvas_of(7, 4.6)
    axes = canvas.subplots()
    for name, points in frontier["sweeps"].items():
        x = [p["reverse_lm_score"] for p in points]
        y = [p["lm_score"] for p in points]
        axes.plot(x, y, "o-", color=COLOURS.get(name), label=name, markersize=5, linewidth=1.6)
    for point in frontier["sweeps"].get("distilled", []):
        axes.annotate(
            f"{point['temperature']:g}",
            (point["reverse_lm_score"], point["lm_score"]),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=COLOURS["distilled"],
            path_effects=halo(),
        )
    people = frontier["people"]
    axes.plot(
        [people["reverse_lm_score"]],
        [people["lm_score"]],
        "*",
        color=COLOURS["people"],
        markersize=14,
        linestyle="none",
        label="people",
    )
    finish_axes(
        axes,
        "",
        "reverse-LM score: nats per token (lower is more diverse)",
        "LM score: nats per token (lower is better text)",
    )
    axes.margins(0.08)
    canvas.suptitle("Quality against diversity", x=0.02, ha="left", fontweight="bold")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=4, frameon=False, fontsize=9)
    canvas.supxlabel(
        f"{frontier['texts']} texts per point; the numbers are temperatures, the same along every line; "
        f"towards the lower left is better",
        fontsize=7,
        color="#666666",
    )
    canvas.savefig(path)


def _draw_likelihood(axes: Axes, name: str, records: list[dict[str, Any]]) -> bool:
    """Draw one stage's validation NLL by step, its best named; False if it was never validated.

    It is the score by which weights are chosen, except in the adversarial game, which records it beside it.
    """
    validations = [(r["step"], r["validation"]) for r in records if "validation" in r]
    points = [(step, figures.get("nll", figures["score"])) for step, figures in validations]
    if not points:
        return False
    steps, scores = zip(*points, strict=True)
    label = f"{name}, best {min(scores):.2f}"
    axes.plot(steps, scores, "o-", color=COLOURS.get(name), markersize=4, label=label)
    return True


def _draw_game(axes: Axes, records: list[dict[str, Any]]) -> None:
    """Draw how often the discriminator tells written from real text, against chance."""
    if not records:
        _say(axes, "no refinement in this run")
        return
    steps = [r["step"] for r in records]
    axes.plot(steps, _smooth([r["told_apart"] for r in records]), color=COLOURS["refined"])
    axes.axhline(0.5, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.annotate(
        "chance",
        (1, 0.5),
        xycoords=axes.get_yaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color="#666666",
    )


def _say(axes: Axes, text: str) -> None:
    """Say in an empty plot why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", color="#666666", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def halo() -> list[Any]:
    """White around letters, so that a line behind them does not strike them out."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def _smooth(values: list[float], width: int = SMOOTHING) -> list[float]:
    """Running mean over the last `width` values."""
    means = []
    for index in range(len(values)):
        part = values[max(0, index - width + 1) : index + 1]
        means.append(sum(part) / len(part))
    return means


def _stages(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Records of every stage of a run that has any, in the order of the run."""
    found: list[tuple[int, int, str]] = []
    for path in directory.glob("*/metrics.jsonl"):
        kind, _, number = path.parent.name.partition("-")
        if kind in STAGES and (not number or number.isdecimal()):
            found.append((STAGES.index(kind), int(number or 0), path.parent.name))
    return {name: _metrics(directory / name / "metrics.jsonl") for *_, name in sorted(found)}


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl; empty if there is none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def finish_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Give every figure the same quiet look."""
    if title:
        axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def canvas_of(width: float, height: float) -> Figure:
    """An empty figure of a size in inches that needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise DependencyError("plots need matplotlib: pip install 'edgetext[train]'") from error
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    canvas = Figure(figsize=(width, height), dpi=140, layout=layout)
    FigureCanvasAgg(canvas)
    return canvas
