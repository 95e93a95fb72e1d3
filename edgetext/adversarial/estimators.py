"""How gradients pass through sampling: Gumbel-softmax roll-outs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetext.models.base import GeneratorModel


def gumbel_noise(logits: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape of `logits`, from torch's random state."""
    return -torch.empty_like(logits).exponential_().log()


def gumbel_softmax(logits: Tensor, inverse_temperature: float) -> Tensor:
    """Relaxed one-hot sample [.., V] (Jang et al. 2017; Maddison et al. 2017); sharper as β grows."""
    return torch.softmax((logits + gumbel_noise(logits)) * inverse_temperature, dim=-1)


def straight_through(soft: Tensor) -> Tensor:
    """One-hot of a relaxed sample's largest entry, with the relaxed sample's gradient (Jang et al. 2017).

    The discriminator then sees written text as it sees real text, and cannot tell them by their softness.
    """
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard + soft - soft.detach()


def inverse_temperature(step: int, steps: int, final: float) -> float:
    """β = final^((step+1)/steps): exponential annealing from about 1 to `final` (Nie et al. 2019, RelGAN)."""
    return float(final ** ((step + 1) / steps))


def gumbel_rollout(
    forward: nn.Module, model: GeneratorModel, prefix: Tensor, length: int, beta: float
) -> Tensor:
    """Continue token prefixes [B,P] by `length` samples [B,length,V], each fed back as the next input.

    Samples are one-hot forwards and relaxed (inverse temperature `beta`) backwards.
    `forward` is the (possibly wrapped) module to call, `model` the generator it wraps.
    """
    output = forward(prefix)
    samples = []
    for index in range(length):
        sample = straight_through(gumbel_softmax(output.logits[:, -1].float(), beta))  # [B,V]
        samples.append(sample)
        if index + 1 < length:
            soft = model.embed_distribution(sample)[:, None]  # [B,1,E]
            output = forward(None, output.state, embeddings=soft)
    return torch.stack(samples, dim=1)  # [B,length,V]
