"""What runs the step graph: ONNX Runtime or numpy, by name or by what is installed.

Both are a :class:`StepBackend`; everything above (generation, batches, beams, prompt states) knows only that.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetext_runtime.errors import DependencyError, InputError, ProviderError
from edgetext_runtime.manifest import REEXPORT, Manifest
from edgetext_runtime.sampling import FloatArray, IntArray, SamplingParams

PROVIDER_NAMES = ("auto", "cpu", "cuda", "numpy")
"""What ``provider=`` takes; ``"auto"`` is ONNX Runtime on the CPU where it is installed, else numpy."""
Threads = int | Literal["auto"]
StateArrays = tuple[NDArray[Any], ...]
"""A state as numpy arrays in the order of the manifest: [B, …], KV caches cut to the tokens seen so far."""


class StepOutput(Protocol):
    """The sampled tokens, int64 [B], and the logits, float32 [B, n, V], where they were asked for."""

    @property
    def next_token(self) -> IntArray: ...  # noqa: D102 - said above

    @property
    def logits(self) -> FloatArray | None: ...  # noqa: D102 - said above


class StepBackend(Protocol):
    """Feeds tokens to a model and samples; ``StepSession`` says each in full."""

    manifest: Manifest
    threads: int
    provider: str

    def new_state(self, batch: int = 1) -> Any:
        """The state before the first token."""

    def run(
        self,
        tokens: IntArray,
        state: Any,
        *,
        sampling: SamplingParams,
        uniform: FloatArray,
        positions: IntArray | None = None,
        want_logits: bool = False,
    ) -> StepOutput:
        """Feed tokens [B, T], advance the state, sample after the last position."""

    def step(self, token: int, state: Any, sampling: SamplingParams, uniform: float) -> int:
        """Feed one token of one sequence and sample the next."""

    def read_state(self, state: Any) -> StateArrays:
        """Copies of the state's tensors, little more than what the tokens so far need."""

    def write_state(self, arrays: Sequence[NDArray[Any]], length: int) -> Any:
        """A state with these contents (copied) after ``length`` tokens."""


def open_session(
    model: bytes, manifest: Manifest, *, sha256: str, threads: Threads = "auto", provider: str = "auto"
) -> StepBackend:
    """Make a model ready to run.

    Args:
        model: the ONNX model, weights inline.
        manifest: what the model claims to be.
        sha256: the bundle's hash, under which a tuned number of threads is remembered.
        threads: threads inside an operator, or ``"auto"``: see :mod:`edgetext_runtime.tuning`.
        provider: one of ``PROVIDER_NAMES``; a name is used or refused, there is no silent fallback.

    Raises:
        BundleError: if the model cannot be loaded or is not what its manifest says.
        DependencyError: if what runs it is missing or too old.
        InputError: if ``threads`` is out of range.
        ProviderError: if the provider is unknown or not available here.
    """
    if provider not in PROVIDER_NAMES:
        raise ProviderError(f"unknown provider {provider!r}; known are {', '.join(PROVIDER_NAMES)}")
    if threads != "auto" and not isinstance(threads, int):
        raise InputError(f"threads is {threads!r}; allowed is 'auto' or an integer of at least 1")
    if provider == "auto":
        provider = "cpu" if _has_onnxruntime() else "numpy"
    if provider == "numpy":
        from edgetext_runtime.numpy_session import NumpySession

        return NumpySession(model, manifest, threads=1 if threads == "auto" else threads)
    from edgetext_runtime.session import StepSession
    from edgetext_runtime.tuning import tuned_session

    if threads == "auto" and provider == "cpu":
        return tuned_session(model, manifest, sha256)
    return StepSession(model, manifest, threads=1 if threads == "auto" else threads, provider=provider)


def _has_onnxruntime() -> bool:
    from edgetext_runtime.backend import load_onnxruntime

    try:
        load_onnxruntime()
    except DependencyError:
        return False
    return True


def check_state_arrays(manifest: Manifest, arrays: Sequence[NDArray[Any]], length: int) -> int:
    """Compare the arrays of a state with the manifest; return their batch size B.

    Raises:
        InputError: naming the tensor whose shape or type is another, or a length beyond the context.
    """
    limit = manifest.context_length
    if length < 0 or (limit is not None and length > limit):
        raise InputError(f"state has {length} tokens; allowed are 0 to the model's context of {limit}")
    if len(arrays) != len(manifest.state):
        raise InputError(f"state has {len(arrays)} tensors, the model {len(manifest.state)}; {REEXPORT}")
    batch = int(arrays[0].shape[0]) if arrays[0].ndim else 0
    for entry, array in zip(manifest.state, arrays, strict=True):
        expected = entry.concrete_shape(max(batch, 1), length)
        if array.shape != expected or array.dtype != np.dtype(entry.dtype):
            raise InputError(
                f"state {entry.input!r} is {array.dtype} {array.shape}; allowed is {entry.dtype} {expected}"
            )
    return batch
