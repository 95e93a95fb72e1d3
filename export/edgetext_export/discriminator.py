"""The discriminator as a graph of its own: token ids in, one calibrated logit per text out.

Written operator by operator like the step graph. Weights stay float32: it is run once per text, over all
candidates at once, and is small beside its embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext.adversarial.discriminators import SLOPE, WIDTHS, Discriminator
from edgetext.adversarial.resample import Rater
from edgetext.adversarial.train_rater import rater_of
from edgetext.errors import ExportError
from edgetext.evaluate.frontier import beginnings
from edgetext_export.builder import FLOAT, INT64, GraphBuilder
from edgetext_export.quantize import FloatArray, check_finite
from edgetext_runtime import rating

LARGEST_ERROR = 1e-3
"""Most that a logit of the graph may differ from torch's, on beginnings of test documents."""
CHECKED_TEXTS = 200
EXPORTED = ("cnn", "lstm", "lstm-cnn")
"""Kinds of discriminators that can be exported."""


def checked_discriminator(run_dir: Path, test: NDArray[np.unsignedinteger]) -> bytes:
    """The graph of a run's discriminator, compared with torch on test documents.

    Raises CheckpointError if there is none, or another student's; ExportError if the graph differs.
    """
    rater = rater_of(run_dir)
    model = build_discriminator_graph(rater)
    texts: list[Any] = beginnings(test, CHECKED_TEXTS, rater.length)
    ended = [len(text) < rater.length for text in texts]
    ours = rating.Rater(model, rater.eos_id, rater.pad_id)(texts, ended)
    error = float(np.abs(ours - rater(texts, ended)).max())
    if not error <= LARGEST_ERROR:
        raise ExportError(f"the exported discriminator's logits differ from torch's by {error:.3g}")
    return model


def build_discriminator_graph(rater: Rater) -> bytes:
    """Write the graph: `tokens` [B,L] int64 → `logit` [B] float32, the scale of the logits folded in.

    Raises ExportError for a kind that has no graph, options that look at a batch, or weights that are not
    finite.
    """
    network, config = rater.network, rater.network.config
    if config.kind not in EXPORTED or config.minibatch != "none" or config.spectral_norm:
        raise ExportError(
            f"a {config.kind} discriminator with minibatch {config.minibatch} and spectral_norm "
            f"{config.spectral_norm} cannot be exported; train one of {', '.join(EXPORTED)} without them: "
            f"edgetext discriminator RUN --kind lstm-cnn --force"
        )
    weights = {name: value.detach().cpu().float().numpy() for name, value in network.state_dict().items()}
    for name, value in weights.items():
        check_finite(f"discriminator {name}", value)
    g = GraphBuilder()
    tokens = g.input("tokens", INT64, ["batch", rater.length])
    table = g.constant("embedding", weights["embedding.weight"].T)  # [V,E]
    x = g.node("Gather", [table, tokens])  # [B,L,E]
    if network.lstm is not None:
        x = _lstm(g, network, weights, x)
    x = g.node("Transpose", [x], perm=[0, 2, 1])  # [B,C,L]
    pooled = [x]
    if network.convolutions:
        pooled = [_convolution(g, network, weights, x, index) for index in range(len(WIDTHS))]
    maxima = [g.node("ReduceMax", [part, g.ints(2)], keepdims=0) for part in pooled]
    features = g.node("Concat", maxima, axis=1) if len(maxima) > 1 else maxima[0]  # [B,F]
    mixed = _linear(g, "mix", weights["mix.weight"], weights["mix.bias"], features)
    features = g.node("Add", [features, g.node("LeakyRelu", [mixed], alpha=SLOPE)])
    scale = np.float32(rater.scale)
    score = _linear(g, "score", weights["score.weight"] * scale, weights["score.bias"] * scale, features)
    g.node("Squeeze", [score, g.ints(1)], "logit")
    g.output("logit", FLOAT, ["batch"])
    return g.build("edgetext-discriminator", {"edgetext.graph": "discriminator-1"})


def _linear(g: GraphBuilder, name: str, weight: FloatArray, bias: FloatArray, x: str) -> str:
    """A linear layer over [B,F]."""
    inputs = [x, g.constant(f"{name}.weight", weight), g.constant(f"{name}.bias", bias)]
    return g.node("Gemm", inputs, transB=1)


def _convolution(
    g: GraphBuilder, network: Discriminator, weights: dict[str, FloatArray], x: str, index: int
) -> str:
    """One width of filters and its activation: [B,C,L] → [B,F,L-w+1]."""
    names = [f"convolutions.{index}.{part}" for part in ("weight", "bias")]
    config = network.config
    groups = config.embeddings if config.kind == "cnn" else 1
    y = g.node("Conv", [x, *(g.constant(name, weights[name]) for name in names)], group=groups)
    return g.node("LeakyRelu", [y], alpha=SLOPE)


def _lstm(g: GraphBuilder, network: Discriminator, weights: dict[str, FloatArray], x: str) -> str:
    """LSTM layers in both directions: [B,L,E] → [B,L,2H]; torch's gates (i, f, c, o) in ONNX's order."""
    H, layers = network.config.hidden, network.config.layers
    x = g.node("Transpose", [x], perm=[1, 0, 2])  # [L,B,E]
    for layer in range(layers):

        def both(name: str, layer: int = layer) -> FloatArray:
            sides = []
            for suffix in ("", "_reverse"):
                i, f, c, o = np.split(weights[f"lstm.{name}_l{layer}{suffix}"], 4)
                sides.append(np.concatenate([i, o, f, c]))
            return np.stack(sides)  # [2,4H,…]

        bias = np.concatenate([both("bias_ih"), both("bias_hh")], axis=1)  # [2,8H]
        parts = {"w": both("weight_ih"), "r": both("weight_hh"), "b": bias}
        inputs = [x, *(g.constant(f"lstm.{layer}.{name}", value) for name, value in parts.items())]
        (y,) = g.nodes("LSTM", inputs, [f"lstm.{layer}"], hidden_size=H, direction="bidirectional")
        y = g.node("Transpose", [y], perm=[0, 2, 1, 3])  # [L,2,B,H] → [L,B,2,H]
        x = g.node("Reshape", [y, g.ints(0, 0, 2 * H)])
    return g.node("Transpose", [x], perm=[1, 0, 2])
