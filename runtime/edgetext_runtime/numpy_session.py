"""Runs a step graph with numpy alone, where onnxruntime has no wheel: the same bundles, the same tokens.

The interface is that of :class:`~edgetext_runtime.session.StepSession`. Greedy tokens, and those of a seed,
are the ones onnxruntime gives, up to the rounding of float32 sums: two logits would have to agree in six
digits, or a quantised activation to lie on the edge of two levels, for another to be chosen.

The graph is read (:mod:`~edgetext_runtime.onnx_reader`), understood (:mod:`~edgetext_runtime.numpy_plan`) and
then run as a list of calls over buffers that exist already. What edgetext does not write is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext_runtime.buffers import StepResult
from edgetext_runtime.engine import StateArrays, check_state_arrays
from edgetext_runtime.errors import InputError
from edgetext_runtime.manifest import Manifest, StateTensor, is_count
from edgetext_runtime.numpy_blas import one_thread
from edgetext_runtime.numpy_layers import Workspace
from edgetext_runtime.numpy_plan import Plan, make_plan
from edgetext_runtime.numpy_sampling import choose
from edgetext_runtime.onnx_reader import read_graph
from edgetext_runtime.sampling import FloatArray, IntArray, SamplingParams
from edgetext_runtime.signature import check_signature

PROVIDER = "numpy"
"""The name of this backend, where others have that of an execution provider."""


class NumpyState:
    """What a generation carries from call to call: made by :meth:`NumpySession.new_state`, for one thread.

    Attributes:
        batch: number of sequences, B.
        length: tokens seen so far (equal for all sequences).
        tensors: the arrays by the name of their input, in the order and with the shapes of the manifest;
            updated in place. Of a KV cache the first ``length`` tokens count.
    """

    def __init__(self, batch: int, tensors: Mapping[str, FloatArray]) -> None:
        self.batch = batch
        self.length = 0
        self.tensors = tensors
        self._program: _Program | None = None


class _Program:
    """The calls of a plan, bound to the buffers of one workspace."""

    def __init__(self, plan: Plan, state: NumpyState, time: int, positions: IntArray) -> None:
        space = Workspace(plan.slots, state.tensors, state.batch, time, positions)
        self._calls = [layer.bind(space) for layer in plan.layers]
        self._space = space
        self._suppressed = plan.suppressed
        self.tokens = space.tokens
        self.logits = space.array(plan.logits)  # [B, n, V]
        self._last = self.logits[:, -1]
        self._params: SamplingParams | None = None
        self._resolved = SamplingParams()

    def run(self, state: NumpyState) -> None:
        """Feed ``tokens``: write ``logits``, advance the state."""
        self._space.past = state.length
        for call in self._calls:
            call()
        state.length += self._space.time

    def sample(self, row: int, params: SamplingParams, uniform: float) -> int:
        """Choose the next token of a sequence; the logits of ids that are never sampled are lost."""
        last = self._last[row]
        for token in self._suppressed:
            last[token] = -np.inf
        if params is not self._params:
            self._params, self._resolved = params, params.resolve(len(last))
        return choose(last, self._resolved, uniform)


class NumpySession:
    """A step graph, understood and compared with its manifest.

    Args:
        model: the ONNX model, weights inline. Weights of at most four bytes for each of the model's are added
            (float32 for 8 bits), and embeddings stay where they are.
        manifest: what the model claims to be.
        threads: 1, the thread that calls; more are refused, as products this small would only wait for them.

    Raises:
        BundleError: if the model cannot be read, is not what the manifest says or not what edgetext writes.
        InputError: if ``threads`` is not 1.
    """

    def __init__(self, model: bytes, manifest: Manifest, *, threads: int = 1) -> None:
        if not is_count(threads, 1) or threads != 1:
            raise InputError(
                f"threads is {threads!r}; allowed is 1 with the numpy backend: leave it out, or pip install "
                "onnxruntime"
            )
        self.manifest = manifest
        self.threads = threads
        self.provider = PROVIDER
        self._one_thread = one_thread()
        graph = read_graph(model)
        check_signature(graph, manifest)
        with np.errstate(all="ignore"):  # weights that are not numbers give tokens all the same
            self._plan = make_plan(graph, manifest, len(model))

    def new_state(self, batch: int = 1) -> NumpyState:
        """The state before the first token: all zeros.

        Raises:
            InputError: if ``batch`` is not a positive integer.
        """
        if not is_count(batch, 1):
            raise InputError(f"batch is {batch!r}; allowed is an integer of at least 1")
        shapes = {s.input: s.concrete_shape(batch, self.manifest.context_length) for s in self.manifest.state}
        return NumpyState(batch, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})

    def read_state(self, state: NumpyState) -> StateArrays:
        """Copies of the state's tensors, in the order of the manifest.

        Returns:
            An array [B, …] for each; KV caches are cut to the ``state.length`` tokens they hold.
        """
        return tuple(_used(s, state.tensors[s.input], state.length).copy() for s in self.manifest.state)

    def write_state(self, arrays: Sequence[NDArray[Any]], length: int) -> NumpyState:
        """The reverse of :meth:`read_state`: a state of its own with these contents, after ``length`` tokens.

        Raises:
            InputError: if a shape or type is not the manifest's.
        """
        state = self.new_state(check_state_arrays(self.manifest, arrays, length))
        for entry, array in zip(self.manifest.state, arrays, strict=True):
            _used(entry, state.tensors[entry.input], length)[...] = array
        state.length = length
        return state

    def run(
        self,
        tokens: IntArray,
        state: NumpyState,
        *,
        sampling: SamplingParams,
        uniform: FloatArray,
        positions: IntArray | None = None,
        want_logits: bool = False,
    ) -> StepResult:
        """Feed tokens [B, T], advance the state by T, and sample after the last position.

        Arguments, result and errors are those of :meth:`edgetext_runtime.session.StepSession.run`.
        """
        batch, time = self._check_tokens(tokens, state)
        if np.shape(uniform) != (batch,):
            raise InputError(
                f"uniform has shape {np.shape(uniform)}; allowed is one number a sequence, ({batch},)"
            )
        wanted = np.array([time - 1]) if positions is None else np.asarray(positions)
        if wanted.ndim != 1 or wanted.size == 0 or wanted.min() < 0 or wanted.max() >= time:
            raise InputError(f"positions are {positions!r}; allowed are time indices from 0 to {time - 1}")
        single = time == 1 and len(wanted) == 1
        program = self._decoder(state) if single else _Program(self._plan, state, time, wanted)
        program.tokens[:] = tokens
        with self._one_thread, np.errstate(all="ignore"):
            program.run(state)
            logits = program.logits.copy() if want_logits else None
            chosen = [program.sample(row, sampling, float(u)) for row, u in enumerate(uniform)]
        return StepResult(np.array(chosen, np.int64), logits)

    def step(self, token: int, state: NumpyState, sampling: SamplingParams, uniform: float) -> int:
        """Feed one token of one sequence and sample the next: :meth:`run` without its checks."""
        program = state._program or self._decoder(state)
        program.tokens[0, 0] = token
        with self._one_thread, np.errstate(all="ignore"):
            program.run(state)
            return program.sample(0, sampling, uniform)

    def _decoder(self, state: NumpyState) -> _Program:
        if state._program is None:
            state._program = _Program(self._plan, state, 1, np.zeros(1, np.int64))
        return state._program

    def _check_tokens(self, tokens: IntArray, state: NumpyState) -> tuple[int, int]:
        if tokens.ndim != 2 or tokens.shape[0] != state.batch or tokens.shape[1] == 0:
            raise InputError(f"tokens have shape {tokens.shape}; allowed is ({state.batch}, at least 1)")
        if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= self.manifest.vocab_size:
            raise InputError(f"tokens: allowed are integers from 0 to {self.manifest.vocab_size - 1}")
        limit = self.manifest.context_length
        if limit is not None and state.length + tokens.shape[1] > limit:
            asked = state.length + tokens.shape[1]
            raise InputError(
                f"tokens: {asked} tokens do not fit the model's context of {limit}; shorten the text"
            )
        return int(tokens.shape[0]), int(tokens.shape[1])


def _used(entry: StateTensor, array: FloatArray, length: int) -> FloatArray:
    """The part of a state tensor that counts after ``length`` tokens."""
    return array[:, :, :length] if entry.kind == "kv_cache" else array
