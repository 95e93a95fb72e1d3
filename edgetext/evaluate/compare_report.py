"""The comparison of runs for people: a table for the terminal, a page of Markdown, a figure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgetext.evaluate.compare import BASELINE, Group, Spread
from edgetext.evaluate.markdown import table
from edgetext.evaluate.plots import canvas_of, finish_axes
from edgetext_runtime.errors import EdgetextError

MOST_LETTERS = 17
"""Width of a label in the terminal's table."""
NONE = "–"
"""What stands where a run has no such figure."""
MARK = " *"
"""Marks a baseline."""


def terminal_table(groups: Sequence[Group]) -> str:
    """Return aligned columns of at most 100 characters; the deviation of the perplexity only."""
    head = ("recipe", "n", "params", "MB", "test ppl", "gain", "nats", "agree", "KL", "teacher", "s")
    rows = [head, *(_terminal_row(group) for group in groups)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *_legend(groups)])


def markdown_page(groups: Sequence[Group], command: str) -> str:
    """Return a page: what was compared on what, the table, what tells recipes apart, and what to mind."""
    head = (
        *("recipe", "seeds", "parameters", "int8 bytes", "test perplexity", "int8 cost"),
        *("gain", "nats/token", "deviations", "top-1 agreement", "KL (teacher)", "teacher", "seconds"),
    )
    parts = [
        f"# Comparison on {groups[0].runs[0].corpus}",
        f"Made by:\n\n```text\n{command}\n```",
        _origin(groups),
        table(head, [_markdown_row(group) for group in groups]),
        "\n".join(f"- {line}" for line in _legend(groups)),
        _meaning(),
        "\n".join(f"- {note}" for note in notes(groups)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def notes(groups: Sequence[Group]) -> list[str]:
    """Return what a reader must know before trusting the figures."""
    found = []
    runs = [run for group in groups for run in group.runs]
    without = [g.label for g in groups if g.gain is None and g.recipe != BASELINE]
    if without and any(group.is_baseline for group in groups):
        found.append(f"no baseline of the same student shape: {', '.join(without)}")
    elif without:
        found.append(
            f"there is no baseline: train the same student with --recipe {BASELINE} and export it as well"
        )
    if single := [group.label for group in groups if len(group.runs) == 1]:
        found.append(f"one seed only, so no spread is known: {', '.join(single)}")
    tokens = runs[0].tokens
    others = {run.teacher_tokens for run in runs if run.teacher_tokens is not None} - {tokens}
    if others:
        found.append(
            f"teachers were measured on {', '.join(f'{n:,}' for n in sorted(others))} test tokens, the "
            f"bundles on {tokens:,}: for the same ones export with --tokens {max(others)} --force"
        )
    if len({run.processor for run in runs}) > 1:
        found.append("the runs were made on different processors: their seconds are not comparable")
    return found


def plot_comparison(groups: Sequence[Group], path: Path) -> None:
    """Draw the perplexity of every run, a row per group, with baselines and teachers as lines.

    Raises DependencyError without matplotlib, EdgetextError if the file cannot be written.
    """
    canvas = canvas_of(8, 1.6 + 0.42 * len(groups))
    axes = canvas.subplots()
    for place, group in enumerate(reversed(groups)):
        spread = Spread(tuple(run.perplexity for run in group.runs))
        colour = "#7a5195" if group.recipe == BASELINE else "#0b7a75"
        if spread.deviation is not None:
            low, high = spread.mean - spread.deviation, spread.mean + spread.deviation
            axes.plot([low, high], [place, place], color=colour, linewidth=8, alpha=0.25)
        axes.plot(spread.values, [place] * len(spread.values), "o", color=colour, markersize=4, alpha=0.7)
        axes.plot([spread.mean], [place], "|", color=colour, markersize=14, markeredgewidth=2)
        if group.is_baseline:
            axes.axvline(spread.mean, color=colour, linewidth=0.8, linestyle=":")
    teachers = {
        run.teacher_perplexity for g in groups for run in g.runs if run.teacher_perplexity is not None
    }
    for number, value in enumerate(sorted(teachers)):
        label = "teachers" if number == 0 else None
        axes.axvline(value, color="#555555", linewidth=0.8, linestyle="--", label=label)
    axes.set_yticks(range(len(groups)), [_marked(group) for group in reversed(groups)])
    axes.set_ylim(-0.7, len(groups) - 0.3)
    finish_axes(axes, "", "test perplexity of the int8 bundle (lower is better)", "")
    axes.tick_params(axis="y", length=0)
    if teachers:
        axes.legend(frameon=False, fontsize=8)
    canvas.suptitle("Recipes side by side", x=0.02, ha="left", fontweight="bold")
    canvas.supxlabel(
        "dots: seeds; bar: mean ± standard deviation; dotted: baseline (*)", fontsize=7, color="#666666"
    )
    try:
        canvas.savefig(path)
    except (OSError, ValueError) as error:
        raise EdgetextError(f"cannot write the plot {path}: {error}") from error


def _terminal_row(group: Group) -> tuple[str, ...]:
    """Cells of a group in the terminal's table."""
    run = group.runs[0]
    return (
        _shortened(group.label, group.is_baseline),
        str(len(group.runs)),
        _count(run.parameters),
        _figure(group, "bundle_bytes", lambda value: f"{value / 1e6:.2f}"),
        _perplexity(group, "perplexity", deviation=True),
        *_gain_cells(group),
        _figure(group, "agreement", lambda value: f"{value:.1%}"),
        _figure(group, "kl_teacher", lambda value: f"{value:.3f}"),
        _perplexity(group, "teacher_perplexity"),
        _figure(group, "seconds", lambda value: f"{value:,.0f}"),
    )


def _markdown_row(group: Group) -> tuple[str, ...]:
    """Cells of a group on the page."""
    deviations = NONE
    if group.gain is not None and group.gain.deviations is not None:
        deviations = f"{group.gain.deviations:.1f}"
    return (
        _marked(group),
        ", ".join(str(run.seed) for run in group.runs),
        f"{group.runs[0].parameters:,}",
        _figure(group, "bundle_bytes", lambda value: f"{value:,.0f}"),
        _perplexity(group, "perplexity", deviation=True),
        _figure(group, "quantisation_cost", lambda value: f"{value:+.2%}"),
        *_gain_cells(group),
        deviations,
        _figure(group, "agreement", lambda value: f"{value:.1%}", deviation=True),
        _figure(group, "kl_teacher", lambda value: f"{value:.3f}", deviation=True),
        _perplexity(group, "teacher_perplexity", deviation=True),
        _figure(group, "seconds", lambda value: f"{value:,.0f}", deviation=True),
    )


def _gain_cells(group: Group) -> tuple[str, str]:
    """Gain over the baseline in per cent of perplexity, and in nats per token."""
    if group.gain is None:
        return NONE, NONE
    return f"{group.gain.perplexity:+.1%}", f"{group.gain.nats:+.3f}"


def _figure(group: Group, name: str, write: Callable[[float], str], *, deviation: bool = False) -> str:
    """Mean of a figure, and its deviation where there is one."""
    spread = group.spread(name)
    if spread is None:
        return NONE
    if not deviation or spread.deviation is None:
        return write(spread.mean)
    return f"{write(spread.mean)} ± {write(spread.deviation)}"


def _perplexity(group: Group, name: str, *, deviation: bool = False) -> str:
    """A perplexity with two decimals, three where it is small (characters)."""
    spread = group.spread(name)
    mean = 0.0 if spread is None else spread.mean
    digits = 3 if mean < 10 else 2 if mean < 1000 else 0
    return _figure(group, name, lambda value: f"{value:,.{digits}f}", deviation=deviation)


def _count(value: int) -> str:
    """Parameters in four characters or so."""
    return f"{value / 1e6:.2f}M" if value >= 1e5 else f"{value / 1e3:.1f}k"


def _marked(group: Group) -> str:
    return group.label + (MARK if group.is_baseline else "")


def _shortened(label: str, is_baseline: bool) -> str:
    """A label that fits its column."""
    room = MOST_LETTERS - (len(MARK) if is_baseline else 0)
    return (label if len(label) <= room else f"{label[: room - 1]}…") + (MARK if is_baseline else "")


def _legend(groups: Sequence[Group]) -> list[str]:
    """What tells the numbered recipes apart, and what the mark means."""
    lines = [
        f"{group.label}: {', '.join(_setting(name, value) for name, value in group.differs.items())}"
        for group in groups
        if group.differs
    ]
    if any(group.is_baseline for group in groups):
        lines.append("*: the baseline, a student of the same shape trained without a teacher")
    return lines


def _setting(name: str, value: Any) -> str:
    """A setting in words: `soft.temperature 2`."""
    name = name.removeprefix("recipe.").replace("phases.0.", "").replace("terms.", "")
    name = re.sub(r"phases\.(\d+)\.", lambda found: f"phase {int(found[1]) + 1} ", name)
    if isinstance(value, list):
        return f"{name} {' + '.join(_value(part) for part in value) or 'none'}"
    return f"{name} {_value(value)}"


def _value(value: Any) -> str:
    """A value in words; of a path its last part."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else str(value)


def _origin(groups: Sequence[Group]) -> str:
    """What all runs have in common."""
    protocol = groups[0].runs[0].protocol
    return "All runs: " + "; ".join(f"{name} {value}" for name, value in protocol.items()) + "."


def _meaning() -> str:
    """How the columns were got."""
    return (
        "Test perplexity: of the exported int8 bundle, mean over seeds ± sample standard deviation; int8 "
        "cost: its increase over the same weights in float32. Gain: less perplexity than the baseline; "
        "nats/token: the same as a difference of mean losses; deviations: difference of the mean "
        "perplexities over the root of the two summed variances. Agreement: share of test positions with the "
        "teacher's most likely token; KL: teacher ‖ student in nats per token; teacher: its own test "
        "perplexity; all three in torch. Seconds: training of the student alone."
    )
