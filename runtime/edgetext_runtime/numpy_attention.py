"""The layers that only Transformers have: normalisation, rotary grouped-query attention, SiLU and GELU.

As `numpy_layers`, whose letters are used; G query heads share a key/value head.
"""

from typing import NamedTuple

import numpy as np

from .numpy_layers import Call, Workspace
from .sampling import FloatArray

_HALF: FloatArray = np.array(0.5, np.float32)
_QUERIES = 128
"""Queries that attend at once, which bounds the scores of a long prompt."""


class Norm(NamedTuple):
    """RMSNorm (Zhang & Sennrich 2019): x / sqrt(mean(x²) + epsilon) * weight."""

    x: int
    out: int
    weight: FloatArray
    epsilon: float
    bias: FloatArray | None = None
    """With one it is LayerNorm (Ba et al. 2016): the mean is taken off first, the bias added last."""

    def __call__(self, space: Workspace) -> Call:
        x, out, bias = space.array(self.x), space.array(self.out), self.bias
        if bias is None:
            return self._scaled(x, out)
        centred = np.zeros_like(x)
        scale = self._scaled(centred, out)

        def run_centred() -> None:
            np.subtract(x, x.mean(-1, keepdims=True), out=centred)
            scale()
            np.add(out, bias, out)

        return run_centred

    def _scaled(self, x: FloatArray, out: FloatArray) -> Call:
        weight, epsilon = self.weight, self.epsilon
        width, multiply = x.shape[-1], np.multiply
        if x.size == width:
            row, dot = x.reshape(-1), np.dot

            def run_row() -> None:
                multiply(x, float(dot(row, row) / width + epsilon) ** -0.5, out)
                multiply(out, weight, out)

            return run_row

        def run() -> None:
            mean = np.einsum("btx,btx->bt", x, x)[..., None] / np.float32(width)
            np.divide(x, np.sqrt(mean + np.float32(epsilon)), out=out)
            multiply(out, weight, out)

        return run


class Activation(NamedTuple):
    """SiLU, x sigmoid(x), or GELU by its tanh approximation (Hendrycks & Gimpel 2016): x/2 (1 + tanh(g(x))).

    g is x/2 for SiLU, and √(2/π) (x + 0.044715 x³) for GELU.
    """

    x: int
    out: int
    silu: bool

    def __call__(self, space: Workspace) -> Call:
        x, out, silu = space.array(self.x), space.array(self.out), self.silu

        def run() -> None:
            if silu:
                np.multiply(x, _HALF, out)
            else:
                np.multiply(x, x, out)
                np.multiply(out, np.float32(0.7978845608 * 0.044715), out)
                np.add(out, np.float32(0.7978845608), out)
                np.multiply(out, x, out)
            np.tanh(out, out)
            np.multiply(out, _HALF, out)
            np.add(out, _HALF, out)
            np.multiply(out, x, out)

        return run


class Attention(NamedTuple):
    """Causal grouped-query attention (Ainslie et al. 2023) over caches [B, K, context, D] in the state.

    Rotary positions (Su et al. 2021) pair the two halves of D. ``x`` are the slots of q, k and v, or one
    that holds them one after the other. ``cos`` and ``sin`` are [context, D]: the tables twice, the first
    half of ``sin`` negated, so that rotated = x * cos + swapped(x) * sin.
    """

    x: tuple[int, ...]
    out: int
    keys: str
    values: str
    heads: int
    kv_heads: int
    scale: float
    cos: FloatArray
    sin: FloatArray

    def __call__(self, space: Workspace) -> Call:
        keys, values = space.state[self.keys], space.state[self.values]
        B, K, _, D = keys.shape
        T, heads, turning = space.time, self.heads, self.heads + K
        parts = [space.array(slot) for slot in self.x]
        packed = parts[0] if len(parts) == 1 else np.zeros((B, T, (heads + 2 * K) * D), np.float32)
        by_head = packed.reshape(B, T, heads + 2 * K, D)
        turned: FloatArray = np.zeros((B, T, turning, D), np.float32)
        swapped = np.zeros_like(turned)
        before, fresh = by_head[:, :, :turning], by_head[:, :, turning:].swapaxes(1, 2)  # fresh: [B,K,T,D]
        q, k = turned[:, :, :heads], turned[:, :, heads:].swapaxes(1, 2)  # [B,T,heads,D], [B,K,T,D]
        cos, sin, half = self.cos[:, None], self.sin[:, None], D // 2
        attend = self._one(q, keys, values, space) if T == 1 else self._many(q, keys, values, space)

        def run() -> None:
            start, end = space.past, space.past + T
            if len(parts) > 1:
                np.concatenate(parts, axis=2, out=packed)
            swapped[..., :half] = before[..., half:]
            swapped[..., half:] = before[..., :half]
            np.multiply(swapped, sin[start:end], swapped)
            np.multiply(before, cos[start:end], turned)
            np.add(turned, swapped, turned)
            keys[:, :, start:end] = k
            values[:, :, start:end] = fresh
            attend()

        return run

    def _one(self, q: FloatArray, keys: FloatArray, values: FloatArray, space: Workspace) -> Call:
        """Attention of one token: q [B,1,heads,D]."""
        B, K, _, D = keys.shape
        grouped = q.reshape(B, K, -1, D)  # a view: [B,K,G,D]
        out = space.array(self.out).reshape(B, K, -1, D)
        turned_keys, scale = keys.swapaxes(2, 3), np.array(self.scale, np.float32)

        def run() -> None:
            end = space.past + 1
            scores = np.matmul(grouped, turned_keys[..., :end])  # [B,K,G,end]
            np.multiply(scores, scale, scores)
            _softmax(scores)
            np.matmul(scores, values[:, :, :end], out=out)

        return run

    def _many(self, q: FloatArray, keys: FloatArray, values: FloatArray, space: Workspace) -> Call:
        """Attention of a prompt: q [B,T,heads,D], some queries at a time."""
        B, K, _, D = keys.shape
        grouped = q.reshape(B, space.time, K, -1, D).transpose(0, 2, 3, 1, 4)  # [B,K,G,T,D]
        out = space.array(self.out).reshape(B, space.time, K, -1, D).transpose(0, 2, 3, 1, 4)

        def run() -> None:
            for start in range(0, space.time, _QUERIES):
                queries = grouped[:, :, :, start : start + _QUERIES]
                count = queries.shape[3]
                end = space.past + start + count
                scores = np.matmul(queries, keys[:, :, None, :end].swapaxes(3, 4))  # [B,K,G,count,end]
                np.multiply(scores, np.float32(self.scale), scores)
                hidden = np.arange(end) > np.arange(end - count, end)[:, None]  # keys after their query
                scores[..., hidden] = -np.inf
                _softmax(scores)
                out[:, :, :, start : start + count] = np.matmul(scores, values[:, :, None, :end])

        return run


def _softmax(scores: FloatArray) -> None:
    """Softmax over the last axis, in place."""
    np.subtract(scores, np.maximum.reduce(scores, axis=-1, keepdims=True), scores)
    np.exp(scores, scores)
    np.divide(scores, np.add.reduce(scores, axis=-1, keepdims=True), scores)
