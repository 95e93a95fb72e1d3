"""Pieces of text as inputs of a step graph, for what is measured on it before the quality is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext.errors import ExportError
from edgetext_runtime.manifest import StateTensor

WINDOW = 64
"""Tokens of a piece."""


def windows(
    state: Sequence[StateTensor],
    text: NDArray[np.unsignedinteger[Any]],
    context: int | None,
    *,
    count: int,
    stride: int,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs of a step graph for `count` pieces spread over the text, each from an empty state.

    Args:
        state: of the graph.
        text: token ids.
        context: most tokens the model can see; None: no limit.
        count: of the pieces.
        stride: how many tokens lie between two of which logits are wanted.

    Raises:
        ExportError: if there are fewer than two tokens.
    """
    length = min(WINDOW, context or WINDOW, len(text))
    if length < 2:
        raise ExportError(
            "no text is left to calibrate on beside what the quality is measured on: give a larger --corpus, "
            "or lower --tokens"
        )
    starts = np.unique(np.linspace(0, len(text) - length, count).astype(np.int64))
    zeros = {entry.input: np.zeros(entry.concrete_shape(1, length), entry.dtype) for entry in state}
    cached = any(entry.kind == "kv_cache" for entry in state)
    for start in starts:
        yield {
            "tokens": np.asarray(text[start : start + length], np.int64)[None],
            "positions": np.arange(length - 1, -1, -stride)[::-1].astype(np.int64),
            "temperature": np.ones(1, np.float32),
            "top_k": np.ones(1, np.int64),
            "top_p": np.ones(1, np.float32),
            "min_p": np.zeros(1, np.float32),
            "uniform": np.zeros(1, np.float32),
            **({"past_length": np.zeros(1, np.int64)} if cached else {}),
            **zeros,
        }
