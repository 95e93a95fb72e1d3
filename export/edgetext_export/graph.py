"""The step graph: tokens and state in; logits where asked for, the sampled token and the new state out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetext.errors import ExportError
from edgetext.models import ModelConfig
from edgetext_export.builder import FLOAT, INT64, GraphBuilder
from edgetext_export.decoder import Decoder
from edgetext_export.layers import Layers
from edgetext_export.portable import PortableLayers, PortableNetwork
from edgetext_export.quantize import FloatArray, check_finite
from edgetext_export.recipes import Precision, Recipe, find_recipe
from edgetext_export.recurrent import add_recurrent, condition_state, recurrent_shapes, recurrent_state
from edgetext_export.sampling import add_sampling, declare_sampling_inputs
from edgetext_export.transformer import PAST_LENGTH, Network, add_transformer, transformer_state
from edgetext_runtime.bundle import StateTensor

_DOCS = {
    "tokens": "Token ids to feed, each sequence after its past.",
    "positions": "Time indices of this call whose logits are wanted, ascending; the last is sampled from.",
    "temperature": "Divides the logits; 1 with top_k 1 is greedy.",
    "top_k": "How many of the likeliest tokens are sampled from, 1 to the vocabulary.",
    "top_p": "Sampled from are the likeliest tokens that together reach this probability.",
    "min_p": "Tokens less likely than this share of the likeliest are dropped.",
    "uniform": "One random number in [0, 1) a sequence: the same one gives the same token.",
    "past_length": "Tokens in the caches so far.",
    "condition.label": "What the text should be: 1 for its label, 0 for all others; the same at every call.",
    "next_token": "The sampled token.",
    "logits": "Unnormalised log-probabilities of the next token at the positions wanted.",
}
"""What Netron and its like show of inputs and outputs."""
_STATE_DOC = "State carried from call to call; zeros at first. A cache's past and present may be one buffer."


@dataclass(frozen=True)
class StepGraph:
    """An exported model and what a manifest must say about it."""

    model: bytes
    """The serialised ONNX model, weights inline."""
    precision: Precision
    """Of the weights and products; activations between operators are float32 in all."""
    state: tuple[StateTensor, ...]
    """Tensors carried from call to call."""
    quantisation: Mapping[str, Any]
    """The recipe, per tensor."""
    opset: int
    """Version of its standard operators."""


def build_step_graph(
    config: ModelConfig | Decoder,
    weights: Mapping[str, FloatArray],
    recipe: Recipe | str,
    *,
    suppressed: Sequence[int] = (),
    moments: Mapping[str, FloatArray] | None = None,
) -> StepGraph:
    """Write the step graph of a generator.

    One graph serves prompt and decode: `tokens` [B,T] int64, `positions` [n] int64 (time indices whose logits
    are wanted; the last is sampled from), the sampling inputs, `past_length` [1] for a Transformer, and the
    past state; out come `next_token` [B,1], `logits` [B,n,V] and the present state.

    Args:
        config: shape of the generator: one of edgetext's, or of a decoder from elsewhere.
        weights: float32 arrays under the names of the checkpoint; a tied model has no `head.weight`.
        recipe: how the weights are stored, or the name of one of `recipes.RECIPES`.
        suppressed: ids that are never sampled (padding, unknown words).
        moments: of what matrices read (`edgetext_export.moments`); those known are rounded by it, others to
            the nearest level.

    Raises:
        ExportError: for an unknown recipe, weights that are missing, of a wrong shape or not finite, or a
            model too large for one file.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    shape = Decoder.of(config) if isinstance(config, ModelConfig) and config.kind == "transformer" else config
    network = PortableNetwork if recipe.portable else Network
    if isinstance(shape, Decoder):
        shapes, state = shape.shapes(), transformer_state(shape, network.head(shape))
    else:
        shapes, state = recurrent_shapes(shape), recurrent_state(shape)
    state += condition_state(shape.labels)
    checked = _check_weights(shapes, weights)
    g = GraphBuilder(portable=recipe.portable)
    layers = (PortableLayers if recipe.portable else Layers)(g, recipe, moments or {})
    g.input("tokens", INT64, ["batch", "time"])
    g.input("positions", INT64, ["n"])
    declare_sampling_inputs(g)
    if isinstance(shape, Decoder):
        g.input(PAST_LENGTH, INT64, [1])
    for entry in state:
        g.input(entry.input, FLOAT, entry.shape)
    if isinstance(shape, Decoder):
        logits = add_transformer(network(g, layers, shape, checked))
    else:
        logits = add_recurrent(g, layers, shape, checked)
    add_sampling(g, logits, config.vocab_size, suppressed)
    for entry in state:
        if entry.output:
            g.output(entry.output, FLOAT, entry.shape)
    metadata, docs = describe(recipe.precision, state)
    model = g.build(f"edgetext-{config.kind}", metadata, docs)
    return StepGraph(model, recipe.precision, state, layers.manifest(), g.opset)


def describe(precision: Precision, state: Sequence[StateTensor]) -> tuple[dict[str, str], dict[str, str]]:
    """Metadata of a step graph, and what its inputs and outputs are, by name."""
    metadata = {"edgetext.graph": "step-1", "edgetext.precision": precision}
    docs = {name: _STATE_DOC for entry in state for name in (entry.input, entry.output)}
    return metadata, docs | _DOCS


def _check_weights(
    shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """Return the weights a graph needs, float32 and checked against the expected shapes."""
    checked = {}
    for name, shape in shapes.items():
        if name not in weights:
            raise ExportError(
                f"weight {name} is missing from the checkpoint; has the training of this model finished?"
            )
        if weights[name].shape != shape:
            raise ExportError(
                f"weight {name} has shape {list(weights[name].shape)}, its configuration says {list(shape)}"
            )
        check_finite(name, weights[name])
        checked[name] = np.asarray(weights[name], np.float32)
    return checked
