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
    "people": "#7a5195",
}
"""One colour per model, the same in every figure."""


def plot_losses(directory: Path, path: Path) -> bool:
    """Draw validation NLL of every stage and the refinement's two losses; False if nothing was recorded."""
    stages = {
        name: _metrics(directory / name / "metrics.jsonl") for name in ("teacher", "distilled", "refined")
    }
    if not any(stages.values()):
        return False
    canvas = _canvas(9, 3.6)
    left, right = canvas.subplots(1, 2)
    for name in ("teacher", "distilled"):
        _draw_likelihood(left, name, stages[name])
    _finish(left, "Validation loss", "step", "nats per token (lower is better)")
    left.legend(frameon=False)
    _draw_game(right, stages["refined"])
    canvas.savefig(path)
    return True


def plot_frontier(frontier: dict[str, Any], path: Path) -> None:
    """Draw quality against diversity for every model's temperature sweep, with the human row."""
    canvas = _canvas(7, 4.4)
    axes = canvas.subplots()
    for name, points in frontier["sweeps"].items():
        x = [p["reverse_lm_score"] for p in points]
        y = [p["lm_score"] for p in points]
        axes.plot(x, y, "o-", color=COLOURS.get(name), label=name, markersize=5, linewidth=1.6)
        for point in points:
            if name == "distilled" or len(frontier["sweeps"]) == 1:
                axes.annotate(
                    f"{point['temperature']:g}",
                    (point["reverse_lm_score"], point["lm_score"]),
                    xytext=(6, -11),
                    textcoords="offset points",
                    fontsize=7,
                    color=COLOURS["distilled"],
                )
    people = frontier["people"]
    axes.plot(
        [people["reverse_lm_score"]],
        [people["lm_score"]],
        "*",
        color=COLOURS["people"],
        markersize=14,
        label="people",
    )
    _finish(
        axes,
        "Quality against diversity",
        "reverse-LM score: nats per token (less is more diverse)",
        "LM score: nats per token (less is better text)",
    )
    axes.legend(frameon=False)
    canvas.supxlabel(
        f"{frontier['texts']} texts per point; the numbers along the line are temperatures; "
        f"towards the lower left is better",
        fontsize=7,
        color="#666666",
    )
    canvas.savefig(path)


def _draw_likelihood(axes: Axes, name: str, records: list[dict[str, Any]]) -> None:
    """Draw one stage's validation NLL by step."""
    points = [(r["step"], r["validation"]["score"]) for r in records if "validation" in r]
    if points:
        steps, scores = zip(*points, strict=True)
        axes.plot(steps, scores, "o-", color=COLOURS[name], markersize=4, label=name)
        axes.annotate(
            f"{scores[-1]:.2f}",
            (steps[-1], scores[-1]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=COLOURS[name],
            fontsize=8,
        )


def _draw_game(axes: Axes, records: list[dict[str, Any]]) -> None:
    """Draw how often the discriminator tells written from real text, and the anchor's loss."""
    _finish(axes, "Adversarial refinement", "step", "share told apart by the discriminator")
    if not records:
        axes.text(
            0.5, 0.5, "no refinement in this run", ha="center", color="#666666", transform=axes.transAxes
        )
        return
    steps = [r["step"] for r in records]
    axes.plot(steps, _smooth([r["told_apart"] for r in records]), color=COLOURS["refined"])
    axes.axhline(0.5, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.annotate(
        "chance", (steps[0], 0.5), xytext=(0, 3), textcoords="offset points", fontsize=7, color="#666666"
    )


def _smooth(values: list[float], width: int = 9) -> list[float]:
    """Running mean over the last `width` values."""
    means = []
    for index in range(len(values)):
        part = values[max(0, index - width + 1) : index + 1]
        means.append(sum(part) / len(part))
    return means


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl; empty if there is none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Give every figure the same quiet look."""
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _canvas(width: float, height: float) -> Figure:
    """An empty figure of a size in inches that needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("plots need matplotlib: pip install 'edgetext[train]'") from error
    canvas = Figure(figsize=(width, height), dpi=140, layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas
