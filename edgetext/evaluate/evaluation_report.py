"""An evaluation for people: Markdown, terminal tables and the frontier's picture, from its record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetext.evaluate.evaluation import PEOPLE
from edgetext.evaluate.intervals import Estimate
from edgetext.evaluate.markdown import table
from edgetext.evaluate.plots import COLOURS, canvas_of, finish_axes, halo

COLUMNS = {
    "Overlap with people's text": {
        **{f"bleu_{n}": f"B{n}" for n in (2, 3, 4, 5)},
        **{f"self_bleu_{n}": f"Self-B{n}" for n in (2, 3, 4, 5)},
        "human_distance": "to people",
    },
    "Referees and diversity": {
        "lm_score": "LM score",
        "reverse_lm_score": "reverse-LM",
        "neural_lm_score": "neural LM",
        "neural_reverse_lm_score": "neural reverse",
        "frechet": "Fréchet",
        "mauve": "MAUVE",
        "oracle_nll": "oracle NLL",
        **{f"distinct_{n}": f"distinct-{n}" for n in (1, 2, 3)},
        "unique": "unique",
        "words_per_text": "words",
        "label_accuracy": "label",
    },
    "Likelihood": {
        "nll_train": "NLL train",
        "nll_test": "NLL test",
        "perplexity_train": "ppl train",
        "perplexity_test": "ppl test",
        "perplexity_given": "ppl test, label given",
        "nll_per_character_test": "NLL/char",
        "agreement": "agreement",
        "kl_teacher": "KL teacher",
    },
}
"""Tables in their order, each with the figures that stand in it where they were measured."""


def tables(record: Mapping[str, Any], width: int | None = None) -> list[tuple[str, str]]:
    """Titles and tables of an evaluation, leaving out what was not measured.

    Columns that do not fit a terminal of a `width` follow in tables below.
    """
    found = []
    for title, columns in COLUMNS.items():
        rows = record["rows"]
        if title == "Likelihood":  # does not depend on the sampling temperature
            first: dict[str, Any] = {}
            for row in rows:
                first.setdefault(row["model"], {**row, "temperature": None})
            rows = list(first.values())
        used = {k: v for k, v in columns.items() if any(k in row["figures"] for row in rows)}
        if not used:
            continue
        lines = [[_name(row), *(_cell(row["figures"].get(k)) for k in used)] for row in rows]
        lines = [line for line in lines if any(cell != "–" for cell in line[1:])]
        found.append((title, _fitted(["", *used.values()], lines, width)))
    return found


def notes(record: Mapping[str, Any]) -> list[str]:
    """How the figures were got, and who dominates whom."""
    p = record["protocol"]
    trainings = sorted(set(p.get("trainings", {}).values()) - {1})
    each = f" and training (of {' or '.join(map(str, trainings))} seeds)" if trainings else ""
    lines = [
        f"{p['seeds']} set{'s' * (p['seeds'] > 1)} of {p['samples']:,} texts per row{each}; BLEU against all "
        f"{p['references']:,} test documents, Self-BLEU against the other {p['samples'] - 1:,} texts of the "
        f"set, both means over {min(p['scored'], p['samples']):,} texts (smoothing method 1); ± half of the "
        f"95 % bootstrap interval over texts.",
        f"LM score: samples under a trigram Kneser–Ney model of the {p['train_documents']:,} training "
        f"documents; reverse-LM score: test documents under one of the samples; nats per word, ends included,"
        f" lower is better. The people row: {p['people_sets']} set{'s' * (p['people_sets'] > 1)} of "
        f"{p['people_texts']:,} training documents; its LM score is of test documents.",
    ]
    if any("label_accuracy" in row["figures"] for row in record["rows"]):
        lines.append(
            "Label: share of texts whose label a classifier of words and pairs of words (naive-Bayes "
            "logistic regression on the training documents) tells as it was asked for, the labels in turn; "
            "the people row: how often it is right on test documents. Likelihoods of conditioned models are "
            "those of the even mixture of their labels, but where the label is given."
        )
    return lines + [found["line"] + "." for found in record["dominance"]]


def markdown(record: Mapping[str, Any], made_by: str, picture: str | None = None) -> str:
    """The whole page."""
    machine = record["machine"]
    parts = [
        f"# Evaluation on {record['protocol']['corpus']}",
        f"{record['label'].capitalize()} on {machine['processor']}, {machine['cores']} cores.",
        f"```sh\n{made_by}\n```",
    ]
    if picture is not None:
        parts.append(f"![Quality against diversity]({picture})")
    for title, body in tables(record):
        parts.append(f"## {title}\n\n{body}")
    parts.append("\n".join(f"- {note}" for note in notes(record)))
    return "\n\n".join(parts) + "\n"


def plot_sweeps(record: Mapping[str, Any], path: Path) -> None:
    """Draw every model's sweep, its seeds as small points around the mean, and people's texts."""
    canvas = canvas_of(7.4, 5.0)
    axes = canvas.subplots()
    temperatures = sorted(record["protocol"]["temperatures"])
    for number, (name, seeds) in enumerate(record["sweeps"].items()):
        mean = [_mean([sweep[i] for sweep in seeds]) for i in range(len(temperatures))]
        (line,) = axes.plot(*zip(*mean, strict=True), "o-", markersize=5, linewidth=1.6, label=name)
        for sweep in seeds:
            axes.plot(*zip(*sweep, strict=True), ".", color=line.get_color(), markersize=3, alpha=0.5)
        if number == 0:
            for t, point in zip(temperatures, mean, strict=True):
                axes.annotate(
                    f"{t:g}",
                    point,
                    xytext=(6, 4),
                    textcoords="offset points",
                    fontsize=8,
                    color=line.get_color(),
                    path_effects=halo(),
                )
    people = next(row["figures"] for row in record["rows"] if row["model"] == PEOPLE)
    axes.plot(
        [people["reverse_lm_score"]["mean"]],
        [people["lm_score"]["mean"]],
        "*",
        color=COLOURS["people"],
        markersize=14,
        linestyle="none",
        label=PEOPLE,
    )
    finish_axes(
        axes,
        "Quality against diversity",
        "reverse-LM score: nats per word (lower is more diverse)",
        "LM score: nats per word (lower is better text)",
    )
    axes.margins(0.08)
    axes.legend(frameon=False, fontsize=8)
    canvas.supxlabel(
        f"{record['protocol']['samples']:,} texts per point; the numbers are temperatures, the same along "
        f"every line; towards the lower left is better",
        fontsize=7,
        color="#666666",
    )
    canvas.savefig(path)


def _fitted(head: Sequence[str], lines: Sequence[Sequence[str]], width: int | None) -> str:
    """The table, cut into several one below the other where it is wider than `width`."""
    parts, first = [], 1
    while first < len(head):
        last = len(head)
        while True:
            chosen = [[row[0], *row[first:last]] for row in (head, *lines)]
            body = table(chosen[0], chosen[1:])
            if width is None or last == first + 1 or len(body.split("\n", 1)[0]) <= width:
                break
            last -= 1
        parts.append(body)
        first = last
    return "\n\n".join(parts)


def _mean(points: Sequence[Sequence[float]]) -> tuple[float, float]:
    x, y = (sum(part) / len(points) for part in zip(*points, strict=True))
    return x, y


def _name(row: Mapping[str, Any]) -> str:
    return str(row["model"]) if row["temperature"] is None else f"{row['model']}, T {row['temperature']:g}"


def _cell(figure: Mapping[str, Any] | None) -> str:
    return "–" if figure is None else str(Estimate(**figure))
