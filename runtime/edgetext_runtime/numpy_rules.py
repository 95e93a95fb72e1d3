"""How an edgetext graph counts tokens and samples: every node that may do so, and what its outputs then mean.

A node is written as operator, what its operands mean, and its attributes where they are not the default.
Numbers are constants: ``-1`` is a scalar, ``[1]`` a vector. With these rules a graph is known to sample as
`sampling` defines it, so that definition can be run in its place.
"""

from collections.abc import Mapping

DEFAULTS: Mapping[str, object] = {"keepdims": 1}
"""Attributes that change nothing when they are written out."""

RULES: Mapping[str, str] = {
    # lengths, for the attention over a cache
    "Shape(tokens) end=1 start=0": "batch",
    "Shape(tokens) end=2 start=1": "time",
    "Transpose(tokens) perm=(1, 0)": "tokens.turned",
    "Max(tokens, 1)": "tokens.begun",
    "Add(past_length, time)": "total",
    "Squeeze(past_length)": "begin",
    "Squeeze(total)": "end",
    "Range(begin, end, 1)": "places",
    "Cast(total) to=6": "total",
    "Reshape(total, [])": "total",
    "Sub(total, 1)": "last_index",
    "Sub(total, [1])": "last_index",
    "Expand(last_index, batch)": "last_indices",
    "Cast(last_indices) to=6": "last_indices",
    # sampling
    "Gather(logits, -1) axis=1": "last",
    "Add(last, suppressed)": "allowed",
    "Add(logits, suppressed)": "allowed",
    "TopK(logits, top_k) axis=2": "all_values all_ids",
    "TopK(allowed, top_k) axis=2": "all_values all_ids",
    "Gather(all_values, -1) axis=1": "values",
    "Gather(all_ids, -1) axis=1": "ids",
    "TopK(last, top_k) axis=1": "values ids",
    "TopK(allowed, top_k) axis=1": "values ids",
    "Div(values, temperature)": "scaled",
    "Softmax(scaled) axis=1": "p",
    "CumSum(p, 1)": "c",
    "CumSum(p, [1])": "c",
    "Sub(c, p)": "before",
    "Less(before, top_p)": "within",
    "Gather(p, [0]) axis=1": "p0",
    "ReduceMax(p) axes=(1,)": "p0",
    "Mul(p0, min_p)": "floor",
    "GreaterOrEqual(p, floor)": "likely",
    "And(within, likely)": "keep",
    "Where(keep, c, 0.0)": "kept",
    "ReduceMax(kept, [1])": "sum",
    "ReduceMax(kept) axes=(1,)": "sum",
    "Unsqueeze(uniform, [1])": "u",
    "Mul(u, sum)": "threshold",
    "LessOrEqual(c, threshold)": "passed",
    "Cast(passed) to=7": "counted",
    "ReduceSum(counted, [1])": "index",
    "GatherElements(ids, index) axis=1": "next_token",
}
"""Sentence → meaning of the outputs. ``suppressed`` is a constant: minus infinity for some ids, else zero."""
