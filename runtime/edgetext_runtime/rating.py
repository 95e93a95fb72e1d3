"""The bundle's discriminator: how real a text looks, for choosing among candidates (``best_of``).

``discriminator.onnx`` takes ``tokens`` int64 [B, L] (a text without its start token, its end marked where it
has one, then padding) and gives ``logit`` float32 [B], an estimate of log p_data(text) / p_model(text).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetext_runtime.backend import load_onnxruntime
from edgetext_runtime.errors import BundleError, InputError
from edgetext_runtime.manifest import REEXPORT
from edgetext_runtime.uniform import UniformStream

if TYPE_CHECKING:
    from edgetext_runtime.bundle import Bundle
    from edgetext_runtime.results import Generation

MEMBER = "discriminator.onnx"


class Rater:
    """Rates texts by a bundle's discriminator.

    Raises:
        BundleError: if the discriminator cannot be loaded, or is not one.
        DependencyError: if onnxruntime is missing.
        InputError: if the bundle has none.
    """

    def __init__(self, bundle: "Bundle") -> None:
        if MEMBER not in bundle.members:
            raise InputError(
                "choose_by asks for a discriminator, which this bundle has not; allowed is 'likelihood', or "
                "a bundle made with `edgetext export RUN --discriminator`"
            )
        self._session, self.length = rating_session(bundle.members[MEMBER])
        special = bundle.manifest.special_tokens
        self._eos, self._pad = special["eos"] or 0, special["pad"] or 0

    def __call__(self, texts: Sequence[Sequence[int]], ended: Sequence[bool]) -> NDArray[np.float64]:
        """Logits [N] of token sequences, each with whether it ended by itself."""
        return rate(self._session, self.length, texts, ended, self._eos, self._pad)


def rating_session(model: bytes) -> tuple[Any, int]:
    """A session for a discriminator's graph, and the number of tokens that it reads.

    Raises:
        BundleError: if it cannot be loaded, or is no discriminator.
        DependencyError: if onnxruntime is missing.
    """
    if b"\n\x08location" in model:
        raise BundleError(f"{MEMBER} keeps weights in another file, which is not allowed; {REEXPORT}")
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        shape = session.get_inputs()[0].shape
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise BundleError(f"{MEMBER}: onnxruntime cannot load it ({error}); {REEXPORT}") from error
    if names != ["tokens", "logit"] or len(shape) != 2 or not isinstance(shape[1], int):
        raise BundleError(f"{MEMBER}: its inputs and outputs are not a discriminator's; {REEXPORT}")
    return session, shape[1]


def rate(
    session: Any,
    length: int,
    texts: Sequence[Sequence[int]],
    ended: Sequence[bool],
    eos: int,
    pad: int,
) -> NDArray[np.float64]:
    """Logits [N] of texts, packed as the module says.

    Raises:
        BundleError: if a logit is not finite.
    """
    rows = np.full((len(texts), length), pad, np.int64)
    for row, text, over in zip(rows, texts, ended, strict=True):
        whole = [*text, eos][:length] if over else list(text)[:length]
        row[: len(whole)] = whole
    logits: NDArray[np.float64] = session.run(["logit"], {"tokens": rows})[0].astype(np.float64)
    if not np.isfinite(logits).all():
        raise BundleError(f"{MEMBER}: it gives logits that are not finite; {REEXPORT}")
    return logits


def choose(rater: Rater, prompt: Sequence[int], results: "Sequence[Generation]", by: str, seed: int) -> int:
    """Index of the candidate to keep: the top-rated, or one drawn in proportion to exp(logit)."""
    texts = [[*prompt, *result.tokens] for result in results]
    logits = rater(texts, [result.finish_reason == "eos" for result in results])
    if by == "top":
        return int(logits.argmax())
    weights = np.exp(logits - logits.max())
    drawn = UniformStream((seed + len(results)) % (1 << 64)).next() * weights.sum()
    return min(int(np.searchsorted(np.cumsum(weights), drawn, "right")), len(results) - 1)
