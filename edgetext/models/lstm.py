"""LSTM generator: embedding → LSTM layers → (projection) → output layer, optionally tied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetext.models.base import GeneratorModel, Output, State
from edgetext.models.config import ModelConfig


class LSTMGenerator(GeneratorModel):
    """Recurrent generator; the state is h and c of every layer, so its context has no limit.

    Where H differs from E the last layer's output is projected to E, which lets the output layer be tied
    to the embedding (Press & Wolf 2017) and keeps it small when it is not. In training, units, recurrent
    weights and words can be dropped (Gal & Ghahramani 2016; Merity et al. 2018).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        V, E, H = config.vocab_size, config.embedding, config.hidden
        self.embedding = nn.Embedding(V, E)
        self.lstm = nn.LSTM(E, H, config.layers, batch_first=True)
        self.projection = nn.Linear(H, E) if H != E else nn.Identity()
        self.head = nn.Linear(E, V)
        self.dropout = LockedDropout(config.dropout) if config.locked_dropout else nn.Dropout(config.dropout)
        self._initialise()
        if config.tied:
            self.head.weight = self.embedding.weight

    def _initialise(self) -> None:
        """Small embeddings, LSTM defaults, forget-gate bias 1 (Jozefowicz et al. 2015)."""
        nn.init.normal_(self.embedding.weight, std=self.config.embedding**-0.5)
        nn.init.zeros_(self.head.bias)
        H = self.config.hidden
        for layer in range(self.config.layers):
            getattr(self.lstm, f"bias_hh_l{layer}").data.zero_()
            bias = getattr(self.lstm, f"bias_ih_l{layer}").data
            bias.zero_()
            bias[H : 2 * H] = 1.0

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """See `GeneratorModel.forward`; `hidden` holds the embedding output and every layer's output."""
        x = self.embed(tokens, embeddings, condition)  # [B,T,E]
        if tokens is not None and self.training and self.config.word_dropout:
            x = x * self._kept_words(x)[tokens]  # [B,T,1]
        x = self.dropout(x)
        hidden = [x]
        new_state: list[Tensor] = []
        for layer in range(self.config.layers):
            x, h, c = self._layer(layer, x, state)
            new_state += [h, c]
            hidden.append(x)
            x = self.dropout(x)  # [B,T,H]
        x = self.projection(x)  # [B,T,E]
        if not isinstance(self.projection, nn.Identity):
            x = self.dropout(x)
        return Output(self.head(x), tuple(hidden), tuple(new_state))

    def _layer(self, layer: int, x: Tensor, state: State | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run one LSTM layer over [B,T,·]; layer by layer, so that every layer's output is at hand."""
        if state is None:
            zero = x.new_zeros(1, x.shape[0], self.config.hidden)
            initial = (zero, zero)
        else:
            h, c = state[2 * layer : 2 * layer + 2]
            initial = (h.unsqueeze(0).to(x.dtype), c.unsqueeze(0).to(x.dtype))
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self.lstm, f"{name}_l{layer}") for name in names]
        weights[1] = F.dropout(weights[1], self.config.recurrent_dropout, self.training)
        y, h, c = torch._VF.lstm(x, initial, weights, True, 1, 0.0, self.training, False, True)
        return y, h[0], c[0]

    def _kept_words(self, like: Tensor) -> Tensor:
        """Draw the factor of every word's embedding [V,1]: 0, or 1 / (1 - p)."""
        return F.dropout(like.new_ones(self.config.vocab_size, 1), self.config.word_dropout)


class LockedDropout(nn.Module):
    """Dropout that draws one mask per row for all its positions (Gal & Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x [B,T,H] in training."""
        if not self.training or not self.p:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p)
