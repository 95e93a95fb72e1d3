"""Discriminators read token distributions [B,T,V], so that gradients reach the generator's soft samples.

One class, four trunks: ``cnn`` (n-gram filters, Kim 2014, over several embeddings as in RelGAN), ``lstm``
(both directions), ``lstm-cnn`` (n-gram filters over the states of an LSTM in both directions) and
``transformer``. What comes in need not be tokens: hidden states [B,T,H] are embedded by the same product
(professor forcing).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from edgetext.adversarial.minibatch import minibatch_layer
from edgetext.adversarial.settings import HEADS, MOST_PLACES, DiscriminatorConfig

SLOPE = 0.2
"""Of the leaky ReLU."""
WIDTHS = (2, 3, 4, 5)
"""Tokens that the filters of a CNN see."""


What = Literal["logits", "features", "tokens"]


class Discriminator(nn.Module):
    """Scores texts: a trunk, what it sees of the batch, and one number per text (or per token)."""

    def __init__(self, config: DiscriminatorConfig, inputs: int) -> None:
        """`inputs` is the width of what comes in: V of distributions, H of hidden states."""
        super().__init__()
        self.config = config
        E, H, K = config.embedding, config.hidden, config.embeddings
        self.embedding = nn.Linear(inputs, E * K, bias=False)
        nn.init.normal_(self.embedding.weight, std=E**-0.5)
        recurrent = config.kind in ("lstm", "lstm-cnn")
        self.lstm = nn.LSTM(E, H, config.layers, batch_first=True, bidirectional=True) if recurrent else None
        self.encoder = _Encoder(config) if config.kind == "transformer" else None
        read = 2 * H if recurrent else (H if self.encoder is not None else E * K)
        self.convolutions = nn.ModuleList()
        if config.kind in ("cnn", "lstm-cnn"):
            groups = K if config.kind == "cnn" else 1
            self.convolutions.extend([nn.Conv1d(read, H * groups, width, groups=groups) for width in WIDTHS])
            features = H * groups * len(WIDTHS)
        else:
            features = read
        self.token_score = nn.Linear(read, 1)
        self.mix = nn.Linear(features, features)
        self.dropout = nn.Dropout(config.dropout)
        self.minibatch, seen = minibatch_layer(config.minibatch, features)
        self.score = nn.Linear(seen, 1)
        if config.spectral_norm:
            for module in list(self.modules()):
                if isinstance(module, nn.Linear | nn.Conv1d):
                    spectral_norm(module)

    def forward(self, distributions: Tensor, what: What = "logits") -> Tensor:
        """Score texts given as token distributions [B,T,V] or as ids [B,T]; returns [B] logits.

        Higher means more real. `what` asks for the ``features`` [B,F] before the last layer, or for the
        logits of ``tokens``, [B·T], instead.
        """
        if what == "tokens":
            return self.tokens(distributions).flatten()
        features = self.features(distributions)
        return features if what == "features" else self.rate(features)

    def features(self, distributions: Tensor) -> Tensor:
        """What is seen of every text before the last layer: [B,T,V] → [B,F]."""
        x = self.read(distributions).transpose(1, 2)  # [B,C,T]
        pooled = x.amax(-1)
        if self.convolutions:
            pooled = torch.cat([F.leaky_relu(c(x), SLOPE).amax(-1) for c in self.convolutions], dim=-1)
        return pooled + F.leaky_relu(self.mix(pooled), SLOPE)

    def rate(self, features: Tensor) -> Tensor:
        """Logits [B] of features [B,F]."""
        return self.score(self.minibatch(self.dropout(features)))[:, 0]

    def tokens(self, distributions: Tensor) -> Tensor:
        """Logits of every token [B,T]: dense rewards (de Masson d'Autume et al. 2019).

        An LSTM's are of its forward direction alone, and a Transformer's attend to the past: what a token is
        worth must not depend on what follows.
        """
        return self.token_score(self.read(distributions, causal=True))[..., 0]

    def read(self, distributions: Tensor, causal: bool = False) -> Tensor:
        """The trunk's view of every position [B,T,C]; `causal`: of the text up to there."""
        if distributions.is_floating_point():
            x = self.embedding(distributions)  # [B,T,E]
        else:
            x = F.embedding(distributions, self.embedding.weight.T)
        x = self.dropout(x)
        if self.lstm is not None:
            x = self.lstm(x)[0]  # [B,T,2H]
            if causal:
                forward, backward = x.chunk(2, dim=-1)
                x = torch.cat([forward, torch.zeros_like(backward)], dim=-1)
        if self.encoder is not None:
            x = self.encoder(x, causal)
        return x


class _Encoder(nn.Module):
    """Learned places, then pre-norm Transformer layers (Vaswani et al. 2017)."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        H = config.hidden
        self.enter = nn.Linear(config.embedding, H)
        self.places = nn.Parameter(torch.randn(MOST_PLACES, H) * 0.02)
        layer = nn.TransformerEncoderLayer(H, HEADS, 2 * H, config.dropout, F.gelu, 1e-5, True, True)
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        T = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(T, x.device) if causal else None
        return self.layers(self.enter(x) + self.places[:T], mask=mask)
