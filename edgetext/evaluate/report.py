"""report.md: a run's figures, plots and samples in one page, rebuilt from its records at any time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgetext.checkpoint import read_json, write_atomic
from edgetext.evaluate.markdown import table
from edgetext.evaluate.plots import plot_frontier, plot_losses
from edgetext_runtime.bundle import read_bundle
from edgetext_runtime.tokenizer import Tokenizer

REPORT_FILE = "report.md"
LATENCY_FILE = "bench.md"
"""The latency section, written by `edgetext report` from a bench record."""


def megabytes(size: int) -> str:
    """Bytes as `1.36 MB` (10⁶ bytes)."""
    return f"{size / 1e6:.2f} MB"


def write_report(directory: Path) -> Path:
    """Write report.md and its plots from the records in a run directory; returns the report's path.

    The latency section is what bench.md holds, if there is one, with plots/latency.png. Raises
    CheckpointError if the run is not finished.
    """
    result = read_json(directory / "result.json")
    plots = directory / "plots"
    plots.mkdir(exist_ok=True)
    losses = plot_losses(directory, plots / "losses.png")
    if result["frontier"]:
        plot_frontier(result["frontier"], plots / "frontier.png")
    parts = [
        f"# {directory.name}",
        _origin(directory, result),
        "## Side by side",
        side_by_side(result, bundles(directory)),
        _notes(result),
        "## Refinement",
        _refinement(result),
        "![Loss curves](plots/losses.png)" if losses else "",
        *_sweeps(result["frontier"]),
        *_latency(directory),
        "## Samples",
        f"The {result['student']} student, from the start of a document, temperature 0.7, not chosen:",
        *("```text\n" + text.strip().replace("```", "'''") + "\n```" for text in result["samples"]),
    ]
    path = directory / REPORT_FILE
    write_atomic(path, ("\n\n".join(part for part in parts if part) + "\n").encode())
    return path


def bundles(directory: Path) -> list[dict[str, Any]]:
    """Facts of the bundles (.etx) in a run directory: name, precision, bytes, quality record."""
    found = []
    for path in sorted(directory.glob("*.etx")):
        bundle = read_bundle(path)
        found.append(
            {
                "name": path.name,
                "precision": bundle.manifest.precision,
                "bytes": path.stat().st_size,
                "parameters": bundle.manifest.parameters,
                "quality": json.loads(bundle.members["quality.json"]),
            }
        )
    return found


def side_by_side(result: dict[str, Any], exported: list[dict[str, Any]]) -> str:
    """Markdown tables of a run's models and, if there are any, its bundles."""
    models = table(
        ("model", "kind", "params", "MB", "valid", "test", "kept", "agree", "KL", "tok/s"),
        [
            (
                _measured_as(row),
                row["kind"],
                f"{row['parameters']:,}",
                f"{row['fp32_bytes'] / 1e6:.2f}",
                f"{row['valid_perplexity']:.2f}",
                f"{row['test_perplexity']:.2f}",
                _share(row["quality_kept"]),
                _share(row["agreement"]),
                _number(row.get("kl_teacher")),
                f"{row['torch_tokens_per_second']:,.0f}",
            )
            for row in result["models"]
        ],
        text_columns=2,
    )
    models += f"\n\nThe student is the {result['student']} model.{_int8_note(result)}"
    if not exported:
        return models
    qualities = [bundle["quality"] for bundle in exported]
    return f"{models}\n\n" + table(
        ("bundle", "precision", "size", "test ppl in torch", "exported", "change", "argmax flips"),
        [
            (
                bundle["name"],
                bundle["precision"],
                megabytes(bundle["bytes"]),
                f"{quality['perplexity']['fp32']:.2f}",
                f"{quality['perplexity']['exported']:.2f}",
                f"{round(quality['perplexity_increase'], 4) + 0.0:+.2%}",
                f"{quality['flip_rate']['prompt']:.2%}",
            )
            for bundle, quality in zip(exported, qualities, strict=True)
        ],
        text_columns=2,
    )


def _measured_as(row: dict[str, Any]) -> str:
    """Name of a model's row, with a mark (`_int8_note`) if it was not measured in float32."""
    return f"{row['name']}†" if row.get("arithmetic") == "int8" else str(row["name"])


def _share(value: float | None) -> str:
    """A share as per cent; a dash where there is no teacher to compare with."""
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    """Nats to three places; a dash where there is nothing to compare with."""
    return "–" if value is None else f"{value:.3f}"


def _origin(directory: Path, result: dict[str, Any]) -> str:
    """Where the text came from and where the figures were made."""
    corpus, config = read_json(directory / "corpus.json"), read_json(directory / "config.json")
    machine = result["machine"]
    return (
        f"Corpus `{corpus['source']}` ({corpus['documents']:,} documents, "
        f"{corpus['characters']:,} characters, licence {corpus['licence']}), "
        f"{corpus['tokenizer']['kind']} tokenizer with {corpus['tokenizer']['vocab_size']:,} ids, "
        f"seed {config['seed']}.{_unknown(directory, corpus)} Figures {result['label']} on "
        f"{machine['processor']}, {machine['cores']} cores."
    )


def _unknown(directory: Path, corpus: dict[str, Any]) -> str:
    """How much of the test split is unknown words, for a tokenizer that has a token for them."""
    if Tokenizer.from_json((directory / "tokenizer.json").read_bytes()).unk_id is None:
        return ""
    test = corpus["splits"]["test"]
    share = test.get("unknown", 0) / test["tokens"]
    return (
        f" Of the test tokens {share:.2%} are `<unk>`, which stands for all that the vocabulary lacks and "
        f"is an easy target: compare perplexities under this vocabulary only."
    )


def _latency(directory: Path) -> list[str]:
    """The latency section, if there is one."""
    section, plot = directory / LATENCY_FILE, directory / "plots" / "latency.png"
    if not section.exists():
        return []
    text = section.read_text(encoding="utf-8").strip()
    return ["## Latency", text, "![Latency](plots/latency.png)" if plot.exists() else ""]


def _notes(result: dict[str, Any]) -> str:
    """How the columns were got."""
    protocol = result["protocol"]
    return (
        f"Valid, test: perplexity of the split; {_windows(protocol)}, fresh state, "
        f"{protocol['tokens']['test']:,} test tokens. Kept: the teacher's test perplexity over the model's. "
        f"Agree: share of test positions with the teacher's most likely token. KL: from the teacher to the "
        f"model, nats per test token. Tok/s: greedy decoding in "
        f"torch in float32, batch 1; the exported bundle is measured under Latency."
    )


def _int8_note(result: dict[str, Any]) -> str:
    """What a row measured in int8 is, where there is one."""
    if not any(row.get("arithmetic") == "int8" for row in result["models"]):
        return ""
    return (
        "\n\n† int8: measured in the arithmetic of the exported bundle, weights and activations, through"
        "\nwhich the model was trained; so are its sweep and its samples."
    )


def _windows(protocol: dict[str, Any]) -> str:
    """What an evaluation window was."""
    if protocol.get("windows") == "document":
        return f"one document at a time, in pieces of at most {protocol['window']} tokens"
    return f"windows of {protocol['window']} tokens"


def _refinement(result: dict[str, Any]) -> str:
    """The referee's verdict in words."""
    verdict = result["refinement"]
    if verdict is None:
        return "Left out in this run."
    return (
        f"The referee {verdict['reason']}. Changes are refined minus distilled, mean over "
        f"{len(verdict['incumbent'])} sweeps of {len(verdict['temperatures'])} temperatures ± standard "
        f"error, on the validation split."
    )


def _sweeps(frontier: dict[str, Any] | None) -> list[str]:
    """Plot and table of the temperature sweeps, if they were measured."""
    if frontier is None:
        return []
    return ["![Quality against diversity](plots/frontier.png)", _sweep_table(frontier)]


def _sweep_table(frontier: dict[str, Any]) -> str:
    """Temperature sweeps as a table, with what its columns mean; older runs have no BLEU."""
    columns = {"lm_score": "LM score", "reverse_lm_score": "reverse-LM score"}
    meaning = "LM score: lower is better text. Reverse-LM score: lower is more diverse."
    people = frontier["people"]
    if "bleu_4" in people:
        columns |= {"bleu_4": "BLEU-4", "self_bleu_4": "Self-BLEU-4"}
        meaning += (
            f" BLEU-4 against {frontier['references']:,} texts of the test split: higher is better text. "
            f"Self-BLEU-4: lower is more diverse."
        )
    rows = [
        (name, f"{p['temperature']:g}", *(f"{p[column]:.3f}" for column in columns))
        for name, points in frontier["sweeps"].items()
        for p in points
    ]
    rows.append(("people", "–", *(f"{people[column]:.3f}" for column in columns)))
    return f"{table(('model', 'temperature', *columns.values()), rows)}\n\n{meaning}"
