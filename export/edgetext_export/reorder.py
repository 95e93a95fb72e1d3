"""A model from elsewhere in the order of the bundle's token ids, so that its graph needs no table of ids.

0 ends a text and begins the next, 1 is padding, then come the model's own tokens. Where one matrix is
embedding and output layer, and a text begins with another token than it ends with, row 0 ends it, row 1
(padding, which is never written) begins it, and the graph reads row 1 for id 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgetext.distill.vocabulary import EOS_ID, PAD_ID, RestrictedGenerator, VocabularyMap
from edgetext.models.base import GeneratorModel

PAD_BIAS = -1000.0
"""Added to the logit of padding, which no model from elsewhere knows: exp(-1000) is nothing."""


@dataclass(frozen=True)
class Rows:
    """Which rows of a model's own matrices become rows 0, 1, 2, … of the bundle's, each [V]."""

    embedding: Tensor
    """Of the embedding (of a shared matrix: of both)."""
    head: Tensor
    """Of the output layer."""
    shared_start: bool
    """Whether id 0 is to be read as row 1."""

    def padding(self) -> Tensor:
        """What is added to the logits [V], so that padding is never written."""
        bias = torch.zeros(len(self.head))
        bias[PAD_ID] = PAD_BIAS
        return bias


def rows(vocabulary: VocabularyMap, *, tied: bool) -> Rows:
    """Return the rows for a model's vocabulary, whose embedding is also its output layer if it is `tied`."""
    outputs = torch.from_numpy(vocabulary.array)
    inputs = outputs.clone()
    inputs[EOS_ID] = inputs[PAD_ID] = vocabulary.start
    if not tied:
        return Rows(inputs, outputs, False)
    shared = inputs.clone()
    shared[EOS_ID] = outputs[EOS_ID]
    return Rows(shared, shared, vocabulary.start != int(outputs[EOS_ID]))


class Reordered(RestrictedGenerator):
    """The torch model as the bundle reads and writes it: what the exported graph is compared with."""

    def __init__(self, model: GeneratorModel, vocabulary: VocabularyMap, *, tied: bool) -> None:
        """Raises ConfigError if the map is not of this model."""
        super().__init__(model, vocabulary)
        self.inputs[PAD_ID] = vocabulary.start
        self._pad_row = int(rows(vocabulary, tied=tied).head[PAD_ID])

    def restrict(self, logits: Tensor) -> Tensor:
        """Map the model's logits [B,T,V_t] to the bundle's [B,T,V]."""
        chosen = logits.index_select(-1, self.outputs)
        return chosen.index_copy(-1, self._id(PAD_ID), logits[..., self._pad_row, None] + PAD_BIAS)
