"""Sampling one token on the host, as `sampling` defines it, and fast.

Greedy decoding takes the largest logit, ``top_k`` sorts only the logits that reach the k-th largest, and a
full sort is of integers that hold logit and id.
"""

import numpy as np

from .sampling import FloatArray, IntArray, SamplingParams

_FEW = 4
"""Below a quarter of the vocabulary, finding the largest is cheaper than sorting all."""


def choose(logits: FloatArray, params: SamplingParams, uniform: float) -> int:
    """Choose a token.

    Args:
        logits: float32 [V]; those of ids that are never sampled are minus infinity.
        params: as given by `sampling.SamplingParams.resolve`.
        uniform: the random number, in [0, 1).

    Returns:
        The id. Where logits are not numbers, any id that is allowed.
    """
    if params.top_k == 1:
        return int(logits.argmax())
    order = largest(logits, params.top_k)
    scaled = logits[order]
    scaled /= np.float32(params.temperature)
    scaled -= scaled[0]
    p = np.exp(scaled, out=scaled)
    p /= p.sum(dtype=np.float32)
    c = p.cumsum(dtype=np.float32)
    keep = c - p < np.float32(params.top_p)
    if params.min_p:
        keep &= p >= np.float32(params.min_p) * p[0]
    n = int(keep.argmin())  # the first that is not kept; 0 if all are, as the likeliest always is
    n = n or (len(keep) if keep[0] else 1)
    return int(order[min(int(c[:n].searchsorted(np.float32(uniform) * c[n - 1], "right")), n - 1)])


def largest(logits: FloatArray, count: int) -> IntArray:
    """The ids of the largest logits in descending order, of equal ones the lower id first."""
    size = len(logits)
    if count * _FEW < size:
        bound = np.partition(logits, size - count)[size - count]
        ids = np.flatnonzero(logits >= bound)
        if len(ids) >= count:  # fewer only where logits are not numbers
            return ids[np.argsort(-logits[ids], kind="stable")[:count]]
    return _sorted(logits)[:count]


def _sorted(logits: FloatArray) -> IntArray:
    """All ids in descending order of their logits, by sorting integers.

    The bits of a float32 that is not negative grow with it, those of a negative one shrink; turned round so
    that the largest comes first, they are the upper half of an integer that has the id as its lower half.
    """
    bits = (logits + np.float32(0)).view(np.int32)  # -0 becomes 0, which it is equal to
    keys = np.where(bits < 0, bits & 0x7FFF_FFFF, ~bits).astype(np.int64)
    keys <<= 32
    keys |= np.arange(len(logits))
    keys.sort()
    return keys & 0xFFFF_FFFF
