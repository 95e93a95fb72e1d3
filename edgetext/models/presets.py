"""Named shapes, and the small language in which any other shape can be given. No torch here."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from edgetext.errors import ConfigError
from edgetext.models.config import KINDS, Kind, ModelConfig

REFERENCE_VOCABULARY = 2048
"""Vocabulary size for which `edgetext presets` prints its figures; the default of `edgetext distill`."""


def _recurrent(
    kind: Kind, embedding: int, hidden: int, layers: int, *, tied: bool, dropout: float
) -> ModelConfig:
    return ModelConfig(kind, REFERENCE_VOCABULARY, embedding, hidden, layers, tied=tied, dropout=dropout)


def _transformer(
    hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, dropout: float, bottleneck: int = 0
) -> ModelConfig:
    return ModelConfig(
        "transformer",
        REFERENCE_VOCABULARY,
        hidden,
        hidden,
        layers,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        context=256,
        tied=True,
        dropout=dropout,
        bottleneck=bottleneck,
    )


PRESETS: dict[str, tuple[ModelConfig, str]] = {
    "lstm-teacher": (_recurrent("lstm", 512, 768, 1, tied=False, dropout=0.2), "default teacher"),
    "lstm-teacher-large": (_recurrent("lstm", 512, 1024, 2, tied=False, dropout=0.3), "a longer training"),
    "lstm-student": (_recurrent("lstm", 128, 288, 1, tied=True, dropout=0.0), "default student"),
    "lstm-student-small": (_recurrent("lstm", 96, 160, 1, tied=True, dropout=0.0), "half a megabyte"),
    "gru-student": (_recurrent("gru", 128, 320, 1, tied=True, dropout=0.0), "GRU student"),
    "transformer-teacher": (_transformer(320, 6, 5, 5, 896, 0.1), "Transformer teacher"),
    "transformer-student": (_transformer(128, 3, 4, 2, 320, 0.0), "Transformer student"),
    "transformer-student-small": (_transformer(96, 2, 3, 1, 256, 0.0), "half a megabyte"),
    "transformer-student-bottleneck": (
        _transformer(320, 6, 5, 5, 160, 0.0, bottleneck=80),
        "for block-wise transfer",
    ),
}
"""Name → (shape at the reference vocabulary, what it is for)."""


def resolve_model(text: str, vocab_size: int) -> ModelConfig:
    """Return the shape that `text` names: a preset, fields changed after commas, or a kind with all fields.

    Examples: ``lstm-student``, ``lstm-student,hidden=256,dropout=0.1``,
    ``lstm,embedding=128,hidden=256,layers=2,tied=true``. Raises ConfigError naming what is not understood.
    """
    name, *changes = [part.strip() for part in text.split(",")]
    values = dict(_change(change, text) for change in changes)
    kind = PRESETS[name][0].kind if name in PRESETS else name
    if kind == "transformer" and "hidden" in values:
        values.setdefault("embedding", values["hidden"])
    if name in PRESETS:
        return replace(PRESETS[name][0].with_vocab(vocab_size), **values)
    if name in KINDS:
        return ModelConfig.from_dict({"kind": name, "vocab_size": vocab_size, **values})
    known = ", ".join([*PRESETS, *KINDS])
    raise ConfigError(
        f"{name!r} is neither a directory nor a model preset; known are {known} (see `edgetext presets`)"
    )


def _change(text: str, whole: str) -> tuple[str, Any]:
    """Read one ``field=value``."""
    types = {f.name: f.type for f in fields(ModelConfig) if f.name not in ("kind", "vocab_size", "labels")}
    field, equals, value = text.partition("=")
    if not equals or field not in types:
        raise ConfigError(f"in model {whole!r}: {text!r} is not FIELD=VALUE with one of {', '.join(types)}")
    try:
        if types[field] == "bool":
            return field, {"true": True, "false": False}[value.lower()]
        return field, (float if types[field] == "float" else int)(value)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"in model {whole!r}: {value!r} is not a valid {field}") from error
