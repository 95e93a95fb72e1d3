"""The sampling subgraph: logits in, one token id out, so that the host never touches the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgetext_export.builder import FLOAT, INT64, GraphBuilder

NEXT_TOKEN = "next_token"


def declare_sampling_inputs(g: GraphBuilder) -> None:
    """Declare the inputs that steer sampling; the host resolves greedy decoding to top_k 1, temperature 1."""
    g.input("temperature", FLOAT, [1])
    g.input("top_k", INT64, [1])
    g.input("top_p", FLOAT, [1])
    g.input("min_p", FLOAT, [1])
    g.input("uniform", FLOAT, ["batch"])


def add_sampling(g: GraphBuilder, logits: str, vocab_size: int, suppressed: Sequence[int] = ()) -> str:
    """Sample `next_token` [B,1] from the last row of `logits` [B,n,V].

    The definition, shared with `edgetext_runtime.sampling`: take the top_k largest logits in descending order
    (ties: lower id first); p = softmax(l / temperature) over those; c = cumsum(p); keep the prefix where
    c_i - p_i < top_p and p_i >= min_p * p_0; r = uniform * c at the last one kept; take the first i with
    c_i > r. `suppressed` ids (padding, unknown words) have a logit of minus infinity here, though not in the
    `logits` output: the model may expect an unknown word, but nobody wants to read one.

    With uniform < 1 in float32 (at most 1 - 2**-24) the product r is always below the c it is scaled by, so
    the count of c_i <= r needs no clamp.
    """
    if suppressed:
        mask = np.zeros(vocab_size, np.float32)
        mask[list(suppressed)] = -np.inf
        logits = g.node("Add", [logits, g.constant("suppressed", mask)])
    every = g.nodes("TopK", [logits, "top_k"], ["top.values", "top.ids"], axis=2)  # [B,n,k]
    # Of every position, as taking the last row out first would copy V numbers for each token.
    values, ids = (g.node("Gather", [top, g.scalar(-1, np.int64)], axis=1) for top in every)  # [B,k]
    p = g.node("Softmax", [g.node("Div", [values, "temperature"])], axis=1)
    c = g.node("CumSum", [p, g.scalar(1, np.int64)])
    in_top_p = g.node("Less", [g.node("Sub", [c, p]), "top_p"])
    floor = g.node("Mul", [g.node("Gather", [p, g.ints(0)], axis=1), "min_p"])  # [B,1]
    kept = g.node("And", [in_top_p, g.node("GreaterOrEqual", [p, floor])])
    total = g.node("ReduceMax", [g.node("Where", [kept, c, g.scalar(0.0, np.float32)]), g.ints(1)])  # [B,1]
    r = g.node("Mul", [g.node("Unsqueeze", ["uniform", g.ints(1)]), total])
    below = g.node("Cast", [g.node("LessOrEqual", [c, r])], to=INT64)
    index = g.node("ReduceSum", [below, g.ints(1)])  # [B,1]
    g.node("GatherElements", [ids, index], NEXT_TOKEN, axis=1)
    return g.output(NEXT_TOKEN, INT64, ["batch", 1])
