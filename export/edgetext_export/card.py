"""CARD.md: what a bundle is, in words and figures taken from its other members."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgetext_runtime.bundle import Manifest

_HUB_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "bsd-3-clause", "gpl-3.0")
"""Identifiers of licences that the Hub knows, of those met here."""
_EMBED = """\
```python
from edgetext_runtime import Generator  # pip install edgetext-runtime

generator = Generator.load("{name}.etx")
for piece in generator.stream("{prompt}", {label}temperature=0.8, top_k=40, seed=1):
    print(piece, end="", flush=True)
```"""


def write_card(manifest: Manifest, quality: Mapping[str, Any], model_bytes: int, prompt: str) -> str:
    """Return the model card, in Markdown.

    Args:
        manifest: the bundle's manifest (its members need not be filled in).
        quality: the content of quality.json.
        model_bytes: size of model.onnx.
        prompt: an example prompt, of the model's own corpus.
    """
    kind = {"lstm": "LSTM", "gru": "GRU", "transformer": "decoder-only Transformer"}[manifest.architecture]
    context = (
        f"{manifest.context_length} tokens" if manifest.context_length else "unlimited (recurrent state)"
    )
    sections = [
        _front_matter(manifest),
        f"# {manifest.name}",
        f"A text generator: {kind}, {manifest.parameters:,} parameters, distilled and exported with "
        f"{manifest.created_by}. It continues text in the manner of the corpus below and knows nothing else; "
        f"what it writes is not checked for truth.",
        _table(
            ("Property", "Value"),
            [
                ("Architecture", f"{kind}: {_shape(manifest.config)}"),
                ("Parameters", f"{manifest.parameters:,}"),
                ("Precision", _precision(manifest)),
                ("Model size", f"{model_bytes:,} bytes"),
                ("Vocabulary", f"{manifest.vocab_size:,} tokens"),
                ("Context", context),
                *([("Labels", ", ".join(manifest.labels))] if manifest.labels else []),
                ("Runs on", _runtimes(manifest)),
                ("Licence", manifest.licence),
            ],
        ),
        "## Quality",
        f"Measured on {quality['tokens']:,} tokens of the corpus's {quality['split']} split, "
        f"against the float32 model it was made from.",
        _table(("Measure", "Value"), _quality_rows(quality)),
        "## Provenance",
        _table(("Part", "Value"), _provenance_rows(manifest.provenance)),
        "## Use",
        _EMBED.format(
            name=manifest.name,
            prompt=_literal(prompt),
            label=f'label="{_literal(manifest.labels[0])}", ' if manifest.labels else "",
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(manifest: Manifest) -> str:
    """What the Hugging Face Hub reads of a card: YAML between two lines."""
    licence = manifest.licence.lower()
    known = licence if licence in _HUB_LICENCES else "other"
    lines = [
        "---",
        "library_name: edgetext",
        "pipeline_tag: text-generation",
        f"license: {known}",
        *([] if known != "other" else [f"license_name: {_identifier(manifest.licence)}"]),
        "tags:",
        *(f"- {tag}" for tag in ("edgetext", "onnx", manifest.architecture, manifest.precision)),
        "---",
    ]
    return "\n".join(lines)


def _identifier(licence: str) -> str:
    """The name of a licence as the Hub takes it: lower case, no spaces."""
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")[:64].rstrip("-.") or "unknown"


def _quality_rows(quality: Mapping[str, Any]) -> list[tuple[str, str]]:
    perplexity, flips, greedy = quality["perplexity"], quality["flip_rate"], quality["greedy"]
    change = round(quality["perplexity_increase"], 4) + 0.0  # no negative zero
    return [
        ("Perplexity, float32", f"{perplexity['fp32']:.3f}"),
        (
            "Perplexity, this bundle",
            f"{perplexity['exported']:.3f} ({change:+.2%})",
        ),
        ("Likeliest token differs, prompt", f"{flips['prompt']:.2%}"),
        ("Likeliest token differs, token by token", f"{flips['step']:.2%}"),
        ("Same greedy tokens as float32", f"the first {greedy['same']} of {greedy['tokens']}"),
        ("Likeliest token differs, batch of 8", f"{quality['batch']['flip_rate']:.2%}"),
        ("Logit error, mean", f"{quality['mean_logit_error']:.4g}"),
        ("Logit error, largest", f"{quality['max_logit_error']:.4g}"),
    ]


def _provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for part, record in provenance.items():
        if isinstance(record, Mapping):
            rows += [(f"{part}: {key}", str(value)) for key, value in record.items() if _is_plain(value)]
        elif _is_plain(record):
            rows.append((part, str(record)))
    return rows or [("Recorded", "nothing")]


def _precision(manifest: Manifest) -> str:
    if manifest.precision in ("fp32", "fp16"):
        return "float32" if manifest.precision == "fp32" else "stored as float16, computed in float32"
    return (
        f"{manifest.precision[3:]}-bit weights, activations quantised as they come; float32 between operators"
    )


def _runtimes(manifest: Manifest) -> str:
    ours = f"onnxruntime {manifest.ort_floor} or newer"
    if manifest.quantisation.get("operators") == "ai.onnx":
        return f"{ours}; any runtime of the standard's operators (ai.onnx, opset {manifest.opset})"
    return f"{ours} (opset {manifest.opset})"


def _shape(config: Mapping[str, Any]) -> str:
    names = ("embedding", "hidden", "layers", "heads", "kv_heads", "ffn")
    shape = ", ".join(f"{name} {config[name]}" for name in names if config.get(name))
    return shape + (", tied embeddings" if config.get("tied") else "")


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {_cell(right)} |" for left, right in lines)


def _cell(text: str) -> str:
    """Keep a value of unknown origin inside its table cell."""
    return " ".join(text.replace("|", "\\|").split())


def _literal(text: str) -> str:
    """Return a prompt as it can stand between double quotes in the example."""
    return repr("'" + " ".join(text.replace("`", "'").split()))[2:-1].replace('"', '\\"') if text else ""


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""
