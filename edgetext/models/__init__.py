"""Generators: LSTM, GRU and Transformer, teacher or student, any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetext.models.config import KINDS, Kind, ModelConfig

if TYPE_CHECKING:
    from edgetext.models.base import GeneratorModel

__all__ = ["KINDS", "Kind", "ModelConfig", "build_model"]


def build_model(config: ModelConfig) -> GeneratorModel:
    """Build a freshly initialised generator of the configured kind and shape (uses torch's random state)."""
    if config.gates:
        from edgetext.models.recurrent import GRUGenerator, LSTMGenerator

        return LSTMGenerator(config) if config.kind == "lstm" else GRUGenerator(config)
    from edgetext.models.transformer import TransformerGenerator

    return TransformerGenerator(config)
