"""Runs the step graph: tokens and state in, the sampled token and the new state out.

Several threads can use a session at once; a `State` belongs to one generation, one thread at a time.

Decoding is the hot path: every buffer of a step is allocated and bound once, two bindings take turns so that
the recurrent state written by one step is read by the next without a copy, and KV caches are bound once as
both past and present. What Python does for a token is to set three numbers and to read one.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .backend import PROVIDERS, available_provider, check_version, load_model, load_onnxruntime
from .buffers import Buffers, State, StepResult
from .engine import StepBackend, check_step
from .errors import ProviderError
from .manifest import Manifest, damaged, is_count
from .sampling import AnyArray, FloatArray, IntArray, SamplingParams, check_number
from .signature import check_signature

MOST_THREADS = 256
"""More threads than this take onnxruntime many seconds to start, and serve no model."""


class _Decoder:
    """The bound buffers of single-token steps for one state."""

    def __init__(self, session: "StepSession", state: State, want_logits: bool) -> None:
        self.buffers = Buffers(session.ort, state.batch, 1, np.zeros(1, np.int64))
        self.logits = session.logits_buffer(state.batch, 1) if want_logits else None
        one, two = state._sides
        bindings = [session.bind(self.buffers, *sides, self.logits) for sides in ((one, two), (two, one))]
        self.runs: list[Callable[[], None]] = [session.runner(binding) for binding in bindings]

    def run(self, state: State) -> None:
        """One step: read the buffers, write ``next_token``, advance the state."""
        self.buffers.past_length[0] = state.length
        self.runs[state._turn]()
        state._turn ^= 1
        state.length += 1


class StepSession(StepBackend):
    """A step graph, loaded and compared with its manifest.

    Args:
        model: the ONNX model, weights inline.
        manifest: what the model claims to be.
        threads: threads inside an operator; the tokens do not depend on it.
        provider: ``"cpu"`` or ``"cuda"``; it is used or refused, there is no silent fallback.
        spinning: whether idle threads wait busily for the next operator; default: with more than one.

    Raises:
        BundleError: if the model cannot be loaded or its inputs and outputs are not those of the manifest.
        InputError: if ``threads`` is not an integer from 1 to ``MOST_THREADS``; else as for ``Generator``.
    """

    def __init__(
        self,
        model: bytes,
        manifest: Manifest,
        *,
        threads: int = 1,
        provider: str = "cpu",
        spinning: bool | None = None,
    ) -> None:
        ok = is_count(threads, 1) and threads <= MOST_THREADS
        check_number("threads", threads, ok, f"an integer from 1 to {MOST_THREADS}")
        self.ort = load_onnxruntime()
        self.manifest = manifest
        self.threads = threads
        self.spinning = threads > 1 if spinning is None else spinning
        self.provider = available_provider(self.ort, provider)
        self._device = "cuda" if self.provider == PROVIDERS["cuda"] else "cpu"
        check_version(self.ort, manifest.ort_floor)
        self._session = load_model(
            model, "model.onnx", threads=threads, spinning=self.spinning, provider=self.provider
        )
        check_signature(self._session.get_inputs(), self._session.get_outputs(), manifest)
        if self._session.get_providers()[0] != self.provider:
            raise ProviderError(f"onnxruntime would not use {self.provider}; try provider='cpu'")

    def _state(self, arrays: list[AnyArray], length: int) -> State:
        current, other = [], []
        for entry, array in zip(self.manifest.state, arrays, strict=True):
            current.append(self._place(array))
            replaced = entry.kind == "recurrent"
            other.append(self._place(np.zeros_like(array)) if replaced else current[-1])
        return State(len(arrays[0]), length, current, other)

    def _place(self, array: AnyArray) -> Any:
        return self.ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _arrays(self, state: State) -> Iterable[AnyArray]:
        return (value.numpy() for value in state._sides[state._turn])

    def run(
        self,
        tokens: IntArray,
        state: State,
        *,
        sampling: SamplingParams,
        uniform: FloatArray,
        positions: IntArray | None = None,
        want_logits: bool = False,
    ) -> StepResult:
        """See `StepBackend.run`."""
        wanted = check_step(self.manifest, tokens, state, uniform, positions)
        batch, time = tokens.shape
        if time == 1 and positions is None:
            decoder = self._decoder(state, want_logits)
            self._fill(decoder.buffers, tokens, state, sampling, uniform)
            decoder.run(state)
            return StepResult(
                decoder.buffers.next_token[:, 0].copy(),
                None if decoder.logits is None else decoder.logits.copy(),
            )
        buffers = Buffers(self.ort, batch, time, wanted)
        self._fill(buffers, tokens, state, sampling, uniform)
        logits = self.logits_buffer(batch, len(wanted)) if want_logits else None
        past, present = state._sides[state._turn], state._sides[state._turn ^ 1]
        self.runner(self.bind(buffers, past, present, logits), shrink=True)()
        state._turn ^= 1
        state.length += time
        return StepResult(buffers.next_token[:, 0].copy(), logits)

    def _fill(
        self,
        buffers: Buffers,
        tokens: IntArray,
        state: State,
        sampling: SamplingParams,
        uniform: FloatArray,
    ) -> None:
        buffers.set_sampling(sampling, self.manifest.vocab_size)
        buffers.tokens[:] = tokens
        buffers.uniform[:] = uniform
        buffers.past_length[0] = state.length

    def logits_buffer(self, batch: int, count: int) -> FloatArray:
        """Room for the logits at ``count`` positions, float32 [B, count, V]."""
        return np.empty((batch, count, self.manifest.vocab_size), np.float32)

    def step(self, token: int, state: State, sampling: SamplingParams, uniform: float) -> int:
        """See `StepBackend.step`."""
        decoder = state._decoders.get(False) or self._decoder(state, False)
        buffers = decoder.buffers
        buffers.set_sampling(sampling, self.manifest.vocab_size)
        buffers.tokens[0, 0] = token
        buffers.uniform[0] = uniform
        decoder.run(state)
        return buffers.next_token.item()

    def _decoder(self, state: State, want_logits: bool) -> _Decoder:
        if want_logits not in state._decoders:
            state._decoders[want_logits] = _Decoder(self, state, want_logits)
        return state._decoders[want_logits]

    def bind(
        self, buffers: Buffers, past: list[Any], present: list[Any], logits: FloatArray | None = None
    ) -> Any:
        """An IOBinding that reads ``buffers`` and ``past`` and writes the token, ``present``, ``logits``."""
        binding = self._session.io_binding()
        for name, value in buffers.inputs.items():
            if name != "past_length" or self.manifest.has_cache:
                binding.bind_ortvalue_input(name, value)
        for entry, before, after in zip(self.manifest.state, past, present, strict=True):
            binding.bind_ortvalue_input(entry.input, before)
            if entry.output:
                binding.bind_ortvalue_output(entry.output, after)
        binding.bind_ortvalue_output("next_token", buffers.output)
        if logits is not None:
            binding.bind_ortvalue_output("logits", self.ort.OrtValue.ortvalue_from_numpy(logits))
        return binding

    def runner(self, binding: Any, *, shrink: bool = False) -> Callable[[], None]:
        """A call that runs the graph on a binding; ``shrink`` gives a long prompt's memory back after it."""
        execute = self._session.run_with_iobinding
        options = self.ort.RunOptions() if shrink else None
        if options is not None:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"{self._device}:0")

        def run() -> None:
            try:
                execute(binding, options)
            except RuntimeError as error:
                raise damaged(f"model.onnx: failed while running ({error})") from error

        return run
