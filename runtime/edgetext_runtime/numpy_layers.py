"""The layers of the step graphs as numpy calls over buffers that are allocated once.

A layer is a description (weights, and the slots it reads and writes). Called with a `Workspace`, that is, for
a number of sequences and tokens, it gives its work there as a call: a prompt makes a workspace, runs it once
and drops it, decoding makes one for single tokens and runs it for each. All arithmetic is float32.

Quantised models keep the arithmetic of onnxruntime's kernels: weights are turned back into float32 once, and
activations are rounded to 8 bits at every product as those kernels do; the float32 sums round differently.

Letters: B sequences, T tokens of a call, n positions, X any width, H hidden, K key/value heads, D head size.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from .sampling import AnyArray, FloatArray, IntArray

Call = Callable[[], None]

_HALF: FloatArray = np.array(0.5, np.float32)
_BLOCK_LEVELS: FloatArray = np.array(127, np.float32)
_BYTE_LEVELS = np.float32(255)
_SMALLEST_PEAK: FloatArray = np.array(1e-36, np.float32)
"""Below it, 127 / peak would overflow; activations as small as that are nothing."""


class Slot(NamedTuple):
    """A value between layers: float32 [B, T, width], or [B, n, width] of the positions that are wanted."""

    width: int
    wanted: bool = False


class Workspace:
    """The buffers of one call: B sequences of T tokens, with logits at n positions.

    Attributes:
        tokens: int64 [B, T], written before every run.
        past: tokens seen before this call, written before every run.
        state: the state tensors by the name of their input; layers update them in place.
    """

    def __init__(
        self,
        slots: tuple[Slot, ...],
        state: Mapping[str, FloatArray],
        batch: int,
        time: int,
        positions: IntArray,
    ) -> None:
        self.batch, self.time, self.positions = batch, time, positions
        self.tokens: IntArray = np.zeros((batch, time), np.int64)
        self.past = 0
        self.state = state
        self._slots = slots
        self._arrays: dict[int, FloatArray] = {}

    def array(self, slot: int) -> FloatArray:
        """The buffer of a slot, C-contiguous."""
        if slot not in self._arrays:
            spec = self._slots[slot]
            shape = (self.batch, len(self.positions) if spec.wanted else self.time, spec.width)
            self._arrays[slot] = np.zeros(shape, np.float32)
        return self._arrays[slot]

    def width(self, slot: int) -> int:
        """X of a slot."""
        return self._slots[slot].width

    def alias(self, slot: int, array: FloatArray) -> None:
        """Let a slot be (a contiguous part of) another's buffer."""
        self._arrays[slot] = array


class Layer(Protocol):
    """What a plan consists of."""

    def __call__(self, space: Workspace) -> Call:
        """A call that computes this layer's outputs from its inputs in ``space``."""


class Embedding(NamedTuple):
    """Rows of a table. ``rows`` are their bytes, uint8 [V, ·], a view of the model file.

    Without ``scales`` they are float32; with them, [V, blocks], a byte stands for (byte - 128) * scale.
    ``least`` is the row for every id below it.
    """

    rows: AnyArray
    scales: FloatArray | None
    out: int
    least: int = 0

    def __call__(self, space: Workspace) -> Call:
        tokens = space.tokens
        if not self.least:
            return self._taken(space, tokens)
        ids = np.zeros_like(tokens)
        take = self._taken(space, ids)

        def run() -> None:
            np.maximum(tokens, self.least, out=ids)
            take()

        return run

    def _taken(self, space: Workspace, tokens: IntArray) -> Call:
        x, rows, scales = space.array(self.out), self.rows, self.scales
        if scales is None:
            content = x.view(np.uint8)
            return lambda: _take(rows, tokens, content)
        levels = np.zeros((*tokens.shape, rows.shape[1]), np.uint8)
        factors = np.zeros((*tokens.shape, scales.shape[1]), np.float32)
        values = np.zeros((*factors.shape, rows.shape[1] // scales.shape[1]), np.float32)
        grouped, flat = levels.reshape(values.shape), x.reshape(values.shape)

        def run() -> None:
            _take(rows, tokens, levels)
            _take(scales, tokens, factors)
            np.subtract(grouped, np.float32(128), out=values)
            np.multiply(values, factors[..., None], out=flat)

        return run


class Repeat(NamedTuple):
    """A condition of the state [B, X] at every position."""

    state: str
    out: int

    def __call__(self, space: Workspace) -> Call:
        out, given = space.array(self.out), space.state[self.state][:, None]
        return lambda: np.copyto(out, given)


class Positions(NamedTuple):
    """Rows of a table of learned positions [context, X], those of this call's tokens."""

    rows: FloatArray
    out: int

    def __call__(self, space: Workspace) -> Call:
        out, rows, time = space.array(self.out), self.rows, space.time
        return lambda: np.copyto(out, rows[space.past : space.past + time])


def _take(rows: AnyArray, ids: IntArray, out: AnyArray) -> None:
    """Copy rows by their ids, which are in range; ``clip`` because other modes go through a buffer."""
    np.take(rows, ids, axis=0, out=out, mode="clip")


class Linear(NamedTuple):
    """x times ``weight`` [X, N]; with ``block``, x is rounded to ±127 per row and block of elements before.

    A quantised weight has rows of zeros up to a whole number of blocks.
    """

    x: int
    out: int
    weight: FloatArray
    block: int = 0

    def __call__(self, space: Workspace) -> Call:
        x, weight, dot = space.array(self.x), self.weight, np.dot
        given = x.reshape(-1, x.shape[-1])
        out = space.array(self.out).reshape(-1, weight.shape[1])
        if not self.block:
            return lambda: void(dot(given, weight, out))
        rounded = np.zeros((len(given), len(weight) // self.block, self.block), np.float32)
        flat = rounded.reshape(len(given), -1)
        quantise = _round_blocks(given, rounded)

        def run() -> None:
            quantise()
            dot(flat, weight, out)

        return run


def void(_: object) -> None:
    """Drop a result."""


def _round_blocks(x: FloatArray, out: FloatArray) -> Call:
    """Round x [rows, X] to ±127 levels per row and block, into out [rows, blocks, block].

    What MatMulNBits does with accuracy level 4; it multiplies by 127 / peak and then by peak / 127.
    """
    flat = out.reshape(len(x), -1)
    part, whole = flat[:, : x.shape[1]], flat.shape == x.shape
    source = x.reshape(out.shape) if whole else out
    peak: FloatArray = np.zeros((*out.shape[:2], 1), np.float32)
    factor = np.zeros_like(peak)
    magnitude = np.zeros_like(out)

    def run() -> None:
        if not whole:
            part[...] = x
        np.abs(source, out=magnitude)
        np.maximum.reduce(magnitude, axis=-1, keepdims=True, out=peak)
        np.maximum(peak, _SMALLEST_PEAK, out=peak)
        np.divide(_BLOCK_LEVELS, peak, out=factor)
        np.multiply(source, factor, out=out)
        np.rint(out, out=out)
        np.divide(peak, _BLOCK_LEVELS, out=factor)
        np.multiply(out, factor, out=out)

    return run


def _round_bytes(x: FloatArray, levels: FloatArray, out: FloatArray) -> None:
    """Round x to unsigned bytes with one scale and zero point for all of it, as DynamicQuantizeLSTM does."""
    low = np.minimum(x.min(), np.float32(0))
    scale = (np.maximum(x.max(), np.float32(0)) - low) / _BYTE_LEVELS
    if not scale > 0:
        scale = np.float32(1)
    zero = np.rint(-low / scale)
    np.divide(x, scale, out=levels)
    np.rint(levels, out=levels)
    np.maximum(levels, -zero, out=levels)
    np.minimum(levels, _BYTE_LEVELS - zero, out=levels)
    np.multiply(levels, scale, out=out)


class Lstm(NamedTuple):
    """One LSTM layer (Hochreiter & Schmidhuber 1997, with forget gates), h and c in the state.

    ``weight`` [X + H + 1, 4H] takes (x, h, 1) to the gates i, o, f, g. The columns of the three sigmoids are
    halved, which is exact: sigmoid(z) = tanh(z / 2) / 2 + 1/2, so that one tanh serves all four gates.
    With ``rounded``, x (all tokens at once) and h are rounded to bytes before they are multiplied.
    """

    x: int
    out: int
    h: str
    c: str
    weight: FloatArray
    rounded: bool = False

    def __call__(self, space: Workspace) -> Call:
        h, c, weight = space.state[self.h], space.state[self.c], self.weight
        x, y = space.array(self.x), space.array(self.out)
        H = h.shape[1]
        fed = np.ones((len(h), len(weight)), np.float32)
        fed_x, fed_h = fed[:, : -H - 1], fed[:, -H - 1 : -1]
        gates = np.zeros((len(h), 4 * H), np.float32)
        sigmoids, (i, o, f, g) = gates[:, : 3 * H], (gates[:, n * H : n * H + H] for n in range(4))
        active = np.zeros_like(h)
        inputs = np.zeros_like(x) if self.rounded else x
        levels_x, levels_h = np.zeros_like(inputs) if self.rounded else x, np.zeros_like(h)
        steps = [(inputs[:, t], y[:, t]) for t in range(space.time)]
        rounded, dot, tanh, multiply, add = self.rounded, np.dot, np.tanh, np.multiply, np.add

        def run() -> None:
            if rounded:
                _round_bytes(x, levels_x, inputs)
            for x_t, y_t in steps:
                fed_x[:] = x_t
                if rounded:
                    _round_bytes(h, levels_h, fed_h)
                else:
                    fed_h[:] = h
                dot(fed, weight, gates)
                tanh(gates, gates)
                multiply(sigmoids, _HALF, sigmoids)
                add(sigmoids, _HALF, sigmoids)
                multiply(c, f, c)
                multiply(i, g, i)
                add(c, i, c)
                tanh(c, active)
                multiply(o, active, h)
                y_t[:] = h

        return run


class Elementwise(NamedTuple):
    """x ∘ y for an operation of two operands; ``y`` is a slot, or a vector [X] for every position."""

    operation: np.ufunc
    x: int
    y: int | FloatArray
    out: int

    def __call__(self, space: Workspace) -> Call:
        x, out, operation = space.array(self.x), space.array(self.out), self.operation
        y = space.array(self.y) if isinstance(self.y, int) else self.y
        return lambda: void(operation(x, y, out))


class Columns(NamedTuple):
    """The columns of x from ``start`` on, as many as the output is wide."""

    x: int
    out: int
    start: int

    def __call__(self, space: Workspace) -> Call:
        columns = space.array(self.x)[..., self.start : self.start + space.width(self.out)]
        if space.batch == space.time == 1:  # contiguous
            space.alias(self.out, columns)
            return lambda: None
        out = space.array(self.out)
        return lambda: np.copyto(out, columns)


class Take(NamedTuple):
    """The positions whose logits are wanted: [B, T, X] → [B, n, X]."""

    x: int
    out: int

    def __call__(self, space: Workspace) -> Call:
        x, positions = space.array(self.x), space.positions
        if len(positions) == space.time and np.array_equal(positions, np.arange(space.time)):
            space.alias(self.out, x)
            return lambda: None
        out = space.array(self.out)
        return lambda: _take_positions(x, positions, out)


def _take_positions(x: FloatArray, positions: IntArray, out: FloatArray) -> None:
    np.take(x, positions, axis=1, out=out, mode="clip")
