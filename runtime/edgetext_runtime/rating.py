"""The bundle's discriminator: how real a text looks, for choosing among candidates (``best_of``).

``discriminator.onnx`` takes ``tokens`` int64 [B, L] (a text without its start token, its end marked where it
has one, then padding) and gives ``logit`` float32 [B], an estimate of log p_data(text) / p_model(text).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .backend import load_model
from .errors import InputError
from .manifest import damaged
from .sampling import AnyArray
from .uniform import UniformStream

if TYPE_CHECKING:
    from .bundle import Bundle
    from .results import Generation

MEMBER = "discriminator.onnx"


class Rater:
    """Rates texts by a discriminator.

    Args:
        model: its graph.
        eos: the id that marks an end.
        pad: the id that fills up.

    Raises:
        BundleError: if it cannot be loaded, or is no discriminator.
        DependencyError: if onnxruntime is missing.
    """

    def __init__(self, model: bytes, eos: int, pad: int) -> None:
        self._session, self._eos, self._pad = load_model(model, MEMBER), eos, pad
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape if inputs else []
        names = [value.name for value in (*inputs, *outputs)]
        if names != ["tokens", "logit"] or len(shape) != 2 or not isinstance(shape[1], int):
            raise damaged(f"{MEMBER}: its inputs and outputs are not a discriminator's")
        self._length: int = shape[1]

    def __call__(self, texts: Sequence[Sequence[int]], ended: Sequence[bool]) -> AnyArray:
        """Logits, float64 [N], of token sequences, each with whether it ended by itself.

        Raises:
            BundleError: if it fails, or does not give a finite one for each.
        """
        rows = np.full((len(texts), self._length), self._pad, np.int64)
        for row, text, over in zip(rows, texts, ended, strict=True):
            whole = [*text, self._eos][: self._length] if over else list(text)[: self._length]
            row[: len(whole)] = whole
        try:
            logits: AnyArray = self._session.run(["logit"], {"tokens": rows})[0].astype(np.float64)
        except Exception as error:  # as in loading it
            raise damaged(f"{MEMBER}: failed while running ({error})") from error
        if logits.shape != (len(rows),) or not np.isfinite(logits).all():
            raise damaged(f"{MEMBER}: it does not give a finite logit for every text")
        return logits


def rater_of(bundle: "Bundle") -> Rater:
    """The rater of a bundle.

    Raises:
        InputError: if it has none; else as for `Rater`.
    """
    if MEMBER not in bundle.members:
        raise InputError(
            "choose_by asks for a discriminator, which this bundle has not; allowed is 'likelihood', or "
            "a bundle made with `edgetext export RUN --discriminator`"
        )
    special = bundle.manifest.special_tokens
    return Rater(bundle.members[MEMBER], special["eos"] or 0, special["pad"] or 0)


def choose(rater: Rater, prompt: Sequence[int], results: "Sequence[Generation]", by: str, seed: int) -> int:
    """Index of the candidate to keep: the top-rated, or one drawn in proportion to exp(logit)."""
    texts = [[*prompt, *result.tokens] for result in results]
    logits = rater(texts, [result.finish_reason == "eos" for result in results])
    if by == "top":
        return int(logits.argmax())
    weights = np.exp(logits - logits.max())
    drawn = UniformStream((seed + len(results)) % (1 << 64)).next() * weights.sum()
    return min(int(np.searchsorted(np.cumsum(weights), drawn, "right")), len(results) - 1)
