"""The weights of a model as the layers need them: float32, no more of them than its size allows."""

import numpy as np

from .errors import BundleError
from .sampling import AnyArray, FloatArray

_ZERO_POINT = 128
"""The byte that stands for zero in blocks of unsigned bytes."""
_SLACK = 1 << 20


def refuse(what: str) -> BundleError:
    """The error for a graph that the numpy backend does not run."""
    return BundleError(
        f"model.onnx: {what}; the numpy backend runs LSTMs and Transformers, not in every recipe: "
        "pip install onnxruntime (provider cpu), or export with --int8 or --fp32 and not --portable"
    )


class Weights:
    """Makes the matrices of the layers.

    Args:
        size: bytes of the model. A byte of it becomes at most one float32 (that of an 8-bit weight), so a
            graph that uses its weights again and again cannot fill the memory.
    """

    def __init__(self, size: int) -> None:
        self._bytes_left = 4 * size + _SLACK
        self._rotary: dict[tuple[int, int], tuple[FloatArray, FloatArray]] = {}

    def _charge(self, elements: int) -> None:
        self._bytes_left -= 4 * elements
        if self._bytes_left < 0:
            raise refuse("uses the same weights more often than a model of its size can")

    def matrix(self, weight: AnyArray) -> FloatArray:
        """A copy of [X, N] (or a vector) that BLAS reads fast: C-contiguous and aligned."""
        self._charge(weight.size)
        return np.array(weight, np.float32, order="C")

    def blocks(self, levels: AnyArray, scales: FloatArray) -> FloatArray:
        """Bytes [N, blocks, block] with a scale for each block, as the float32 matrix [blocks * block, N]."""
        self._charge(levels.size)
        values = np.subtract(levels, np.float32(_ZERO_POINT), dtype=np.float32)
        values *= scales[..., None]
        return np.ascontiguousarray(values.reshape(len(values), -1).T)

    def gates(
        self, x: AnyArray, h: AnyArray, bias: FloatArray, scales: tuple[FloatArray, ...] = ()
    ) -> FloatArray:
        """The weights of `numpy_layers.Lstm`, [X + H + 1, 4H].

        Args:
            x: [X, 4H], from the input to the gates i, o, f, g; levels, if there are scales.
            h: [H, 4H], from the recurrent state.
            bias: [8H], that of the input and that of the state; their sum counts.
            scales: float32 [4H] of the columns of ``x`` and of ``h``.
        """
        X, H = len(x), len(h)
        self._charge((X + H + 1) * 4 * H)
        gates: FloatArray = np.zeros((X + H + 1, 4 * H), np.float32)
        gates[:X], gates[X:-1] = x, h
        if scales:
            gates[:X] *= scales[0]
            gates[X:-1] *= scales[1]
        gates[-1] = bias[: 4 * H] + bias[4 * H :]
        gates[:, : 3 * H] *= np.float32(0.5)
        return gates

    def rotary(self, cos: FloatArray, sin: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The tables of `numpy_attention.Attention`, once for all layers."""
        key = (id(cos), id(sin))
        if key not in self._rotary:
            self._charge(2 * (cos.size + sin.size))
            both = np.concatenate([cos, cos], axis=1), np.concatenate([-sin, sin], axis=1)
            self._rotary[key] = both
        return self._rotary[key]
