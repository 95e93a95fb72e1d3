"""The memory that calls of the step graph read and write: the state, and the small tensors."""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .sampling import FloatArray, IntArray, SamplingParams

_SAMPLING_INPUTS = {"temperature": np.float32, "top_k": np.int64, "top_p": np.float32, "min_p": np.float32}


class StepResult(NamedTuple):
    """What one call of the graph gives.

    Attributes:
        next_token: the sampled token of every sequence, int64 [B].
        logits: float32 [B, n, V] at the n positions asked for; ``None`` unless asked for.
    """

    next_token: IntArray
    logits: FloatArray | None


class State:
    """What a generation carries from call to call: made by ``StepSession.new_state``, used by one thread.

    Attributes:
        batch: number of sequences, B.
        length: tokens seen so far (equal for all sequences).
    """

    def __init__(self, batch: int, length: int, current: list[Any], other: list[Any]) -> None:
        self.batch = batch
        self.length = length
        self._sides = (current, other)  # OrtValues: read and written in turns; the same ones for KV caches
        self._turn = 0  # the side that the next call reads
        self._decoders: dict[bool, Any] = {}  # by whether they give logits


class Buffers:
    """The small tensors of a call, as numpy arrays and as OrtValues over the same memory."""

    def __init__(self, ort: ModuleType, batch: int, time: int, positions: IntArray) -> None:
        self.tokens: IntArray = np.zeros((batch, time), np.int64)
        self.positions = np.ascontiguousarray(positions, np.int64)
        self.uniform: FloatArray = np.zeros(batch, np.float32)
        self.past_length: IntArray = np.zeros(1, np.int64)
        self.next_token: IntArray = np.zeros((batch, 1), np.int64)
        self.sampling: dict[str, Any] = {name: np.ones(1, dtype) for name, dtype in _SAMPLING_INPUTS.items()}
        self._params: SamplingParams | None = None
        alias = ort.OrtValue.ortvalue_from_numpy
        named = {name: getattr(self, name) for name in ("tokens", "positions", "uniform", "past_length")}
        self.inputs = {name: alias(array) for name, array in (named | self.sampling).items()}
        self.output = alias(self.next_token)

    def set_sampling(self, params: SamplingParams, vocab_size: int) -> None:
        """Write the sampling parameters, unless they are the ones already there."""
        if params is not self._params:
            resolved = params.resolve(vocab_size)
            for name, array in self.sampling.items():
                array[0] = getattr(resolved, name)
            self._params = params
