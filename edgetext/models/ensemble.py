"""Several generators as one: the mean of their next-token distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgetext.errors import ConfigError
from edgetext.models.base import GeneratorModel, Output, State


class EnsembleGenerator(GeneratorModel):
    """A mixture of generators over one vocabulary; logits are the log of the mean probability.

    Its state is the members' states one after the other. It has no hidden layers of its own. `config` is the
    first member's, or with Transformers among them the first Transformer's, with the least of their contexts:
    no longer text can be read.
    """

    def __init__(self, models: Sequence[GeneratorModel]) -> None:
        """`models` are at least two. Raises ConfigError if their vocabularies differ."""
        super().__init__()
        if len({model.config.labels for model in models}) > 1:
            raise ConfigError("the teachers of an ensemble need the same labels; give teachers of one run")
        sizes = sorted({model.config.vocab_size for model in models})
        if len(sizes) > 1:
            raise ConfigError(
                f"the teachers of an ensemble need one vocabulary, but have {', '.join(map(str, sizes))} "
                f"ids; give teachers that were trained with one tokenizer"
            )
        self.models = nn.ModuleList(models)
        limited = [model.config for model in models if model.config.context]
        self.config = models[0].config
        if limited:
            self.config = replace(limited[0], context=min(config.context for config in limited))
        self.embedding = models[0].embedding

    def members(self) -> list[GeneratorModel]:
        """Return the generators."""
        return [model for model in self.models if isinstance(model, GeneratorModel)]

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """See `GeneratorModel.forward`; takes token ids only."""
        if tokens is None:
            raise ValueError("an ensemble reads token ids, not embeddings: its members' embeddings differ")
        total: Tensor | None = None
        states: list[Tensor] = []
        for model in self.members():
            size = model.config.state_tensors
            part = None if state is None else state[len(states) : len(states) + size]
            output = model(tokens, part, condition=condition)
            log_p = torch.log_softmax(output.logits.float(), dim=-1)  # [B,T,V]
            total = log_p if total is None else torch.logaddexp(total, log_p)
            states += output.state
        if total is None:
            raise ValueError("an ensemble needs members")
        return Output(total - math.log(len(self.models)), (), tuple(states))

    def parameters_count(self) -> int:
        """Parameters of all members."""
        return sum(model.parameters_count() for model in self.members())
