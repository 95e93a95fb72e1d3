"""Sampling as `edgetext_runtime.sampling` defines it, written down as plainly as it can be."""

from collections.abc import Sequence

import numpy as np

from edgetext_runtime.sampling import FloatArray, IntArray, SamplingParams


def sample(
    logits: FloatArray, params: SamplingParams, uniform: FloatArray, suppressed: Sequence[int] = ()
) -> IntArray:
    """Choose a token for every row: what the graph and the host must choose.

    Args:
        logits: [B, V].
        params: the sampling parameters.
        uniform: [B], numbers in [0, 1), one for each row.
        suppressed: ids that are never chosen; a bundle's graph suppresses padding and unknown words.

    Returns:
        Token ids, int64 [B].
    """
    resolved = params.resolve(logits.shape[-1])
    allowed = logits.astype(np.float32)
    allowed[:, list(suppressed)] = -np.inf
    rows = zip(allowed, uniform.astype(np.float32), strict=True)
    return np.array([_sample_row(row, resolved, u) for row, u in rows], dtype=np.int64)


def _sample_row(logits: FloatArray, params: SamplingParams, uniform: np.float32) -> int:
    order = np.argsort(-logits, kind="stable")[: params.top_k]  # stable: of equal logits the lower id first
    scaled = logits[order] / np.float32(params.temperature)
    weights = np.exp(scaled - scaled[0])
    p = weights / weights.sum(dtype=np.float32)
    c = np.cumsum(p, dtype=np.float32)
    keep = (c - p < np.float32(params.top_p)) & (p >= np.float32(params.min_p) * p[0])
    n = max(1, int(np.logical_and.accumulate(keep).sum()))
    index = int((c <= uniform * c[n - 1]).sum())
    return int(order[min(index, n - 1)])
