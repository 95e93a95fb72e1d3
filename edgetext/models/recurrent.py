"""Recurrent generators: embedding → LSTM or GRU layers → (projection) → output layer, optionally tied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetext.models.base import GeneratorModel, Output, State
from edgetext.models.config import ModelConfig

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RecurrentGenerator(GeneratorModel):
    """Base of LSTM and GRU; the state is that of every layer, so the context has no limit.

    Where H differs from E the last layer's output is projected to E, which lets the output layer be tied
    to the embedding (Press & Wolf 2017) and keeps it small when it is not. In training, units, recurrent
    weights and words can be dropped (Gal & Ghahramani 2016; Merity et al. 2018).

    The layers are the submodule `lstm` or `gru`; subclasses make it and run one of its layers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        V, E, H = config.vocab_size, config.embedding, config.hidden
        self.embedding = nn.Embedding(V, E)
        self.add_module(config.kind, self.make_layers(E, H, config.layers))
        self.projection = nn.Linear(H, E) if H != E else nn.Identity()
        self.head = nn.Linear(E, V)
        self.dropout = LockedDropout(config.dropout) if config.locked_dropout else nn.Dropout(config.dropout)
        self._initialise()
        self.add_condition()
        if config.tied:
            self.head.weight = self.embedding.weight

    def make_layers(self, embedding: int, hidden: int, layers: int) -> nn.RNNBase:
        """Make all layers, batch first."""
        raise NotImplementedError

    def run_layer(self, x: Tensor, weights: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
        """Run one layer over x [B,T,·] from its state, [1,B,H] each: y [B,T,H], then the state after it.

        `weights` are the input's, the recurrent ones and their biases, in torch's gate order.
        """
        raise NotImplementedError

    def _initialise(self) -> None:
        """Small embeddings, torch's own weights, biases of zero."""
        nn.init.normal_(self.embedding.weight, std=self.config.embedding**-0.5)
        nn.init.zeros_(self.head.bias)
        for layer in range(self.config.layers):
            for bias in self.layer_weights(layer)[2:]:
                bias.data.zero_()

    def layer_weights(self, layer: int) -> list[Tensor]:
        """Input weights [GH,in], recurrent weights [GH,H] and their biases [GH] of a layer."""
        layers = self.get_submodule(self.config.kind)
        return [layers.get_parameter(f"{name}_l{layer}") for name in _WEIGHTS]

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
        x = self.embed(tokens, embeddings)  # [B,T,E]
        if tokens is not None and self.training and self.config.word_dropout:
            x = x * self._kept_words(x)[tokens]  # [B,T,1]
        x, carried = self.conditioned(x, condition, state)
        x = self.dropout(x)
        hidden = [x]
        new_state: list[Tensor] = []
        for layer in range(self.config.layers):  # one by one, so that every layer's output is at hand
            weights = self.layer_weights(layer)
            weights[1] = F.dropout(weights[1], self.config.recurrent_dropout, self.training)
            x, *after = self.run_layer(x, weights, self._initial(layer, x, state))
            new_state += [part[0] for part in after]
            hidden.append(x)
            x = self.dropout(x)  # [B,T,H]
        x = self.projection(x)  # [B,T,E]
        if not isinstance(self.projection, nn.Identity):
            x = self.dropout(x)
        return Output(self.head(x), tuple(hidden), (*new_state, *carried))

    def _initial(self, layer: int, x: Tensor, state: State | None) -> list[Tensor]:
        """State of a layer before x [B,T,·], [1,B,H] each."""
        count = self.config.layer_tensors
        if state is None:
            return [x.new_zeros(1, x.shape[0], self.config.hidden)] * count
        return [part.unsqueeze(0).to(x.dtype) for part in state[count * layer : count * (layer + 1)]]

    def _kept_words(self, like: Tensor) -> Tensor:
        """Draw the factor of every word's embedding [V,1]: 0, or 1 / (1 - p)."""
        return F.dropout(like.new_ones(self.config.vocab_size, 1), self.config.word_dropout)


class LSTMGenerator(RecurrentGenerator):
    """LSTM (Hochreiter & Schmidhuber 1997); the state is h and c of every layer."""

    lstm: nn.LSTM

    def make_layers(self, embedding: int, hidden: int, layers: int) -> nn.RNNBase:
        """See `RecurrentGenerator.make_layers`."""
        return nn.LSTM(embedding, hidden, layers, batch_first=True)

    def run_layer(self, x: Tensor, weights: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
        """See `RecurrentGenerator.run_layer`."""
        return torch._VF.lstm(x, state, weights, True, 1, 0.0, self.training, False, True)

    def _initialise(self) -> None:
        """With forget-gate biases of 1 (Jozefowicz et al. 2015)."""
        super()._initialise()
        H = self.config.hidden
        for layer in range(self.config.layers):
            self.layer_weights(layer)[2].data[H : 2 * H] = 1.0


class GRUGenerator(RecurrentGenerator):
    """GRU (Cho et al. 2014), three gates where an LSTM has four; the state is h of every layer.

    As in cuDNN the reset gate is multiplied with the recurrent product, not with what enters it.
    """

    gru: nn.GRU

    def make_layers(self, embedding: int, hidden: int, layers: int) -> nn.RNNBase:
        """See `RecurrentGenerator.make_layers`."""
        return nn.GRU(embedding, hidden, layers, batch_first=True)

    def run_layer(self, x: Tensor, weights: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
        """See `RecurrentGenerator.run_layer`."""
        return torch._VF.gru(x, state[0], weights, True, 1, 0.0, self.training, False, True)


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
