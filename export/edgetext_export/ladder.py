"""The shapes that a budget chooses from: the named student presets, and their proportions at other widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edgetext.models import ModelConfig
from edgetext.models.presets import PRESETS, resolve_model

RECURRENT_WIDTHS = (
    *(32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 352, 384, 448, 512, 576, 640, 768, 896, 1024),
)
"""H of the LSTM and GRU ladders; the embedding has 4/9 of it, as in `lstm-student`, rounded up to 32 (the
larger the number that divides it, the fewer scales int8 needs)."""
TRANSFORMER_WIDTHS = (32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""H of the Transformer ladder: heads of 32, half as many key/value heads, a feed-forward of 2.5 H."""


class Rung(NamedTuple):
    """A shape on a ladder."""

    spec: str
    """As `--student` takes it."""
    config: ModelConfig

    @property
    def label(self) -> str:
        """A preset's name, or the family and its widths."""
        if "=" not in self.spec:
            return self.spec
        if self.config.gates:
            return f"{self.config.kind} {self.config.hidden} (embedding {self.config.embedding})"
        layers = self.config.layers
        return f"transformer {self.config.hidden} × {layers} layer{'s' if layers > 1 else ''}"


def ladders(
    kind: str, vocab_size: int, presets: Mapping[str, tuple[ModelConfig, str]] = PRESETS, context: int = 0
) -> list[list[Rung]]:
    """Return the families of a kind, each with its shapes by rising number of parameters.

    Transformers with a bottleneck are a family of their own: they have fewer parameters for their time.
    """
    found: dict[ModelConfig, str] = {}
    scaled = _scaled_transformers() if kind == "transformer" else _scaled_recurrent(kind)
    for spec in (*_named(kind, presets), *scaled):
        config = resolve_model(spec, vocab_size)
        if config.kind == "transformer" and config.context < context:
            spec = f"{spec},context={context}"
            config = resolve_model(spec, vocab_size)
        found.setdefault(config, spec)
    families: dict[bool, list[Rung]] = {}
    for config, spec in sorted(found.items(), key=lambda item: item[0].parameters()):
        families.setdefault(config.bottleneck > 0, []).append(Rung(spec, config))
    return list(families.values())


def _named(kind: str, presets: Mapping[str, tuple[ModelConfig, str]]) -> Iterator[str]:
    """Yield the presets that are students."""
    yield from (name for name, (shape, _) in presets.items() if "student" in name and shape.kind == kind)


def _scaled_recurrent(kind: str) -> Iterator[str]:
    for hidden in RECURRENT_WIDTHS:
        embedding = -(-hidden * 4 // (9 * 32)) * 32
        yield f"{kind},embedding={embedding},hidden={hidden},layers=1,tied=true"


def _scaled_transformers() -> Iterator[str]:
    for hidden in TRANSFORMER_WIDTHS:
        heads = hidden // 32
        groups = heads // 2 if heads % 2 == 0 else 1
        layers = min(6, 1 + hidden // 64)
        ffn = hidden * 5 // 2 // 16 * 16
        yield (
            f"transformer,hidden={hidden},layers={layers},heads={heads},kv_heads={groups},ffn={ffn},"
            f"context=256,tied=true"
        )
