"""What runs the step graph: ONNX Runtime or numpy, by name or by what is installed.

Both are a `StepBackend`; everything above (generation, batches, beams, prompt states) knows only that.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from .buffers import StepResult
from .errors import DependencyError, InputError, ProviderError
from .manifest import REEXPORT, Manifest, StateTensor, is_count
from .sampling import AnyArray, FloatArray, IntArray, SamplingParams, check_number

PROVIDER_NAMES = ("auto", "cpu", "cuda", "numpy")
"""What ``provider=`` takes; ``"auto"`` is ONNX Runtime on the CPU where it is installed, else numpy."""
Threads = int | Literal["auto"]
SMALL_MODEL = 4 << 20
"""Operators of a model of fewer bytes are too short to be shared out between threads."""
StateArrays = tuple[AnyArray, ...]
"""A state as numpy arrays in the order of the manifest: [B, …], KV caches cut to the tokens seen so far."""


class StepBackend(ABC):
    """Feeds tokens to a model and samples."""

    manifest: Manifest
    threads: int
    provider: str

    def new_state(self, batch: int = 1, condition: FloatArray | None = None) -> Any:
        """The state before the first token: all zeros but for the condition.

        Args:
            batch: how many sequences.
            condition: weights of the model's labels, float32 [C] or [B, C]; default: zeros.

        Raises:
            InputError: if ``batch`` is not a positive integer.
        """
        arrays = self._zeros(batch)
        for entry, array in zip(self.manifest.state, arrays, strict=True):
            if entry.labels and condition is not None:
                array[:] = condition
        return self._state(arrays, 0)

    def read_state(self, state: Any) -> StateArrays:
        """Copies of the state's tensors, in the order of the manifest.

        Returns:
            An array [B, …] for each; KV caches are cut to the ``state.length`` tokens they hold.
        """
        pairs = zip(self.manifest.state, self._arrays(state), strict=True)
        return tuple(np.array(_used_part(entry, array, state.length)) for entry, array in pairs)

    def write_state(self, arrays: Sequence[AnyArray], length: int) -> Any:
        """The reverse of `read_state`: a state of its own with these contents, after ``length`` tokens.

        Raises:
            InputError: naming the tensor whose shape or type is another, or a length beyond the context.
        """
        manifest, limit = self.manifest, self.manifest.context_length
        if length < 0 or (limit is not None and length > limit):
            raise InputError(f"state has {length} tokens; allowed are 0 to the model's context of {limit}")
        if len(arrays) != len(manifest.state):
            raise InputError(f"state has {len(arrays)} tensors, the model {len(manifest.state)}; {REEXPORT}")
        whole = self._zeros(max(int(arrays[0].shape[0]) if arrays[0].ndim else 0, 1))
        for entry, full, array in zip(manifest.state, whole, arrays, strict=True):
            used = _used_part(entry, full, length)
            if array.shape != used.shape or array.dtype != used.dtype:
                raise InputError(
                    f"state {entry.input!r} is {array.dtype} {array.shape}; allowed is {used.dtype} "
                    f"{used.shape}"
                )
            used[...] = array
        return self._state(whole, length)

    def _zeros(self, batch: int) -> list[AnyArray]:
        check_number("batch", batch, is_count(batch, 1), "an integer of at least 1")
        context = self.manifest.context_length
        return [np.zeros(s.concrete_shape(batch, context), s.dtype) for s in self.manifest.state]

    @abstractmethod
    def _state(self, arrays: list[AnyArray], length: int) -> Any:
        """A state over these arrays, which it keeps: of full size, KV caches included."""

    @abstractmethod
    def _arrays(self, state: Any) -> Iterable[AnyArray]:
        """The tensors of a state, of full size."""

    @abstractmethod
    def run(
        self,
        tokens: IntArray,
        state: Any,
        *,
        sampling: SamplingParams,
        uniform: FloatArray,
        positions: IntArray | None = None,
        want_logits: bool = False,
    ) -> StepResult:
        """Feed tokens, advance the state, and sample after the last position.

        Args:
            tokens: int64 [B, T], each below the vocabulary size.
            state: where the sequences stand; advanced by T tokens in place.
            sampling: how the next token is chosen.
            uniform: float32 [B] in [0, 1), the random number of each sequence.
            positions: the n time indices whose logits are wanted, ascending; default: the last, T - 1.
            want_logits: give the logits as well, float32 [B, n, V].

        Raises:
            InputError: if a shape, a token or a position is out of range, or the context is full.
        """

    @abstractmethod
    def step(self, token: int, state: Any, sampling: SamplingParams, uniform: float) -> int:
        """Feed one token of one sequence and sample the next: `run` for B = T = 1, without its checks.

        The caller answers for a token below the vocabulary size and a state of one sequence that is not full.
        """


def _used_part(entry: StateTensor, array: AnyArray, length: int) -> AnyArray:
    """The part of a state tensor that counts after ``length`` tokens, as a view."""
    return array[tuple(slice(length if axis == "context" else None) for axis in entry.shape)]


def open_session(
    model: bytes, manifest: Manifest, *, sha256: str, threads: Threads = "auto", provider: str = "auto"
) -> StepBackend:
    """Make a model ready to run; arguments and errors are those of ``Generator``.

    ``sha256`` is the bundle's, under which a tuned number of threads is remembered.
    """
    if provider not in PROVIDER_NAMES:
        raise ProviderError(f"unknown provider {provider!r}; known are {', '.join(PROVIDER_NAMES)}")
    ok = threads == "auto" or isinstance(threads, int)
    check_number("threads", threads, ok, "'auto' or an integer of at least 1")
    if provider == "auto":
        provider = "cpu" if _has_onnxruntime() else "numpy"
    if provider == "numpy":
        from .numpy_session import NumpySession

        return NumpySession(model, manifest, threads=1 if threads == "auto" else threads)
    from .session import StepSession

    if threads == "auto" and provider == "cpu" and len(model) >= SMALL_MODEL:
        from .tuning import tuned_session

        return tuned_session(model, manifest, sha256)
    return StepSession(model, manifest, threads=1 if threads == "auto" else threads, provider=provider)


def _has_onnxruntime() -> bool:
    from .backend import load_onnxruntime

    try:
        load_onnxruntime()
    except DependencyError:
        return False
    return True


def check_step(
    manifest: Manifest, tokens: IntArray, state: Any, uniform: FloatArray, positions: IntArray | None
) -> IntArray:
    """Check what `StepBackend.run` is given; return the positions, by default the last.

    Raises:
        InputError: if a shape, a token or a position is out of range, or the context is full.
    """
    if tokens.ndim != 2 or tokens.shape[0] != state.batch or tokens.shape[1] == 0:
        raise InputError(f"tokens have shape {tokens.shape}; allowed is ({state.batch}, at least 1)")
    if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= manifest.vocab_size:
        raise InputError(f"tokens: allowed are integers from 0 to {manifest.vocab_size - 1}")
    batch, time = tokens.shape
    limit, asked = manifest.context_length, state.length + time
    if limit is not None and asked > limit:
        raise InputError(
            f"tokens: {asked} tokens do not fit the model's context of {limit}; shorten the text"
        )
    if np.shape(uniform) != (batch,):
        raise InputError(
            f"uniform has shape {np.shape(uniform)}; allowed is one number a sequence, ({batch},)"
        )
    wanted = np.array([time - 1]) if positions is None else np.asarray(positions)
    ok = wanted.ndim == 1 and wanted.size > 0 and wanted.min() >= 0 and wanted.max() < time
    check_number("positions", positions, ok, f"time indices from 0 to {time - 1}")
    return wanted
