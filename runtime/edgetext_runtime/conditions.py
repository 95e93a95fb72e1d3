"""What a text is asked to be, of a model with labels.

The graph adds its input ``condition.label`` [B, C], which the state keeps, times a table to every token's
embedding. For a label and strength s it is 1/C + s * (e - 1/C), e being 1 at the label and 0 elsewhere: 0 is
the middle of all labels, 1 the label as learned, more goes further, in one pass (classifier-free guidance,
Ho & Salimans 2022, takes two).
"""

from typing import TYPE_CHECKING

import numpy as np

from .manifest import Manifest
from .options import Settings
from .sampling import FloatArray, check_number, is_number

if TYPE_CHECKING:
    from .prompt_state import PromptState


def read_condition(
    manifest: Manifest, settings: Settings, state: "PromptState | None" = None
) -> FloatArray | None:
    """The condition [C] of a generation, that of the ``state`` it goes on from; ``None`` without labels.

    Raises:
        InputError: if the label is missing or not the model's; says which there are.
    """
    labels, label, strength = manifest.labels, settings.label, settings.label_strength
    if state is not None:
        check_number("label", label, label is None, "none with a state: it keeps that of prefill(label=…)")
    else:
        allowed = ", ".join(labels) or "none: this model has no labels"
        check_number("label", label, label in (labels or (None,)), allowed)
    ok = is_number(strength) and abs(strength) <= 10 and (label is not None or strength == 1)
    check_number("label_strength", strength, ok, "a number from -10 to 10, with a label")
    if not labels:
        return None
    if state is not None:
        pairs = zip(manifest.state, state.arrays, strict=True)
        return next(array[0] for entry, array in pairs if entry.labels)
    weights: FloatArray = np.full(len(labels), (1 - strength) / len(labels), np.float32)
    weights[labels.index(str(label))] += np.float32(strength)
    return weights
