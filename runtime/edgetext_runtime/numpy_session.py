"""Runs a step graph with numpy alone, where onnxruntime has no wheel: the same bundles, the same tokens.

Greedy tokens, and those of a seed, are the ones onnxruntime
gives, up to the rounding of float32 sums: two logits would have to agree in six digits, or a quantised
activation to lie on the edge of two levels, for another to be chosen.

The graph is read (`onnx_reader`), understood (`numpy_plan`) and then run as a list of calls over buffers that
exist already. What edgetext does not write is refused.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from .buffers import StepResult
from .engine import StepBackend, check_step
from .manifest import Manifest, is_count
from .numpy_blas import one_thread
from .numpy_layers import Workspace
from .numpy_plan import Plan, make_plan
from .numpy_sampling import choose
from .onnx_reader import read_graph
from .sampling import AnyArray, FloatArray, IntArray, SamplingParams, check_number
from .signature import check_signature

PROVIDER = "numpy"
"""The name of this backend, where others have that of an execution provider."""


class NumpyState:
    """What a generation carries from call to call: made by `NumpySession.new_state`, for one thread.

    Attributes:
        batch: number of sequences, B.
        length: tokens seen so far (equal for all sequences).
        tensors: the arrays by the name of their input, in the order and with the shapes of the manifest;
            updated in place. Of a KV cache the first ``length`` tokens count.
    """

    def __init__(self, batch: int, length: int, tensors: Mapping[str, FloatArray]) -> None:
        self.batch = batch
        self.length = length
        self.tensors = tensors
        self._program: _Program | None = None


class _Program:
    """The calls of a plan, bound to the buffers of one workspace."""

    def __init__(self, plan: Plan, state: NumpyState, time: int, positions: IntArray) -> None:
        space = Workspace(plan.slots, state.tensors, state.batch, time, positions)
        self._calls = [layer(space) for layer in plan.layers]
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


class NumpySession(StepBackend):
    """A step graph, understood and compared with its manifest.

    Weights of at most four bytes for each of the model's are added (float32 for 8 bits); embeddings stay
    where they are. ``threads`` is 1, the thread that calls: products this small would only wait for more.

    Raises:
        BundleError: if the model cannot be read, is not what the manifest says or not what edgetext writes.
        InputError: if ``threads`` is not 1.
    """

    def __init__(self, model: bytes, manifest: Manifest, *, threads: int = 1) -> None:
        ok = is_count(threads) and threads == 1
        check_number("threads", threads, ok, "1 with numpy: leave it out, or pip install onnxruntime")
        self.manifest = manifest
        self.threads = threads
        self.provider = PROVIDER
        self._one_thread = one_thread()
        graph = read_graph(model)
        check_signature(graph.inputs, graph.outputs, manifest)
        with np.errstate(all="ignore"):  # weights that are not numbers give tokens all the same
            self._plan = make_plan(graph, manifest, len(model))

    def _state(self, arrays: list[AnyArray], length: int) -> NumpyState:
        names = [entry.input for entry in self.manifest.state]
        return NumpyState(len(arrays[0]), length, dict(zip(names, arrays, strict=True)))

    def _arrays(self, state: NumpyState) -> Iterable[AnyArray]:
        return state.tensors.values()

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
        """See `StepBackend.run`."""
        wanted = check_step(self.manifest, tokens, state, uniform, positions)
        single = tokens.shape[1] == 1 and len(wanted) == 1
        program = self._decoder(state) if single else _Program(self._plan, state, tokens.shape[1], wanted)
        program.tokens[:] = tokens
        with self._one_thread, np.errstate(all="ignore"):
            program.run(state)
            logits = program.logits.copy() if want_logits else None
            chosen = [program.sample(row, sampling, float(u)) for row, u in enumerate(uniform)]
        return StepResult(np.array(chosen, np.int64), logits)

    def step(self, token: int, state: NumpyState, sampling: SamplingParams, uniform: float) -> int:
        """See `StepBackend.step`."""
        program = state._program or self._decoder(state)
        program.tokens[0, 0] = token
        with self._one_thread, np.errstate(all="ignore"):
            program.run(state)
            return program.sample(0, sampling, uniform)

    def _decoder(self, state: NumpyState) -> _Program:
        if state._program is None:
            state._program = _Program(self._plan, state, 1, np.zeros(1, np.int64))
        return state._program
