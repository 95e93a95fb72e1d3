"""Discriminators read token distributions [B,T,V], so that gradients reach the generator's soft samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CNNDiscriminator(nn.Module):
    """Convolutional text discriminator: parallel n-gram filters, max over time (Kim 2014; Yu et al. 2017).

    Tokens enter as distributions over the vocabulary: a one-hot row for real text, a soft row for a
    generator's Gumbel-softmax sample; both are embedded by the same matrix product.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding: int = 64,
        widths: tuple[int, ...] = (2, 3, 4, 5),
        filters: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(vocab_size, embedding, bias=False)
        self.convolutions = nn.ModuleList([nn.Conv1d(embedding, filters, width) for width in widths])
        features = filters * len(widths)
        self.mix = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(features, 1)
        nn.init.normal_(self.embedding.weight, std=embedding**-0.5)

    def forward(self, distributions: Tensor) -> Tensor:
        """Score texts given as token distributions [B,T,V]; returns [B] logits, higher meaning more real."""
        x = self.embedding(distributions).transpose(1, 2)  # [B,E,T]
        pooled = [F.leaky_relu(convolution(x), 0.2).amax(dim=-1) for convolution in self.convolutions]
        features = torch.cat(pooled, dim=-1)  # [B, filters · widths]
        features = features + F.leaky_relu(self.mix(features), 0.2)
        return self.score(self.dropout(features))[:, 0]
