"""How gradients pass through sampling: Gumbel-softmax roll-outs, rewards, and texts to be learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from edgetext.models.base import GeneratorModel, Output, State

EOS, PAD = 0, 1
Rate = Callable[[Tensor], Tensor]
"""One-hot texts [N,T,V] → logits [N]."""


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
    forward: nn.Module,
    model: GeneratorModel,
    prefix: Tensor,
    length: int,
    beta: float,
    *,
    soft: bool = False,
    ends: bool = False,
) -> Tensor:
    """Continue token prefixes [B,P] by `length` samples [B,length,V], each fed back as the next input.

    Samples are one-hot forwards and relaxed (inverse temperature `beta`) backwards, or relaxed both ways
    (`soft`). With `ends` a text is over at its first `EOS`, and padding follows. `forward` is the (possibly
    wrapped) module to call, `model` the generator it wraps.
    """
    output = forward(prefix)
    samples: list[Tensor] = []
    alive = prefix.new_ones(len(prefix), 1, dtype=torch.bool)
    for index in range(length):
        sample = gumbel_softmax(output.logits[:, -1].float(), beta)  # [B,V]
        sample = sample if soft else straight_through(sample)
        if ends:
            padding = nn.functional.one_hot(torch.full_like(prefix[:, 0], PAD), sample.shape[-1])
            sample = torch.where(alive, sample, padding.to(sample.dtype))
            alive = alive & (sample.argmax(-1, keepdim=True) != EOS)
        samples.append(sample)
        if index + 1 < length:
            fed = model.embed_distribution(sample)[:, None]  # [B,1,E]
            output = forward(None, output.state, embeddings=fed)
    return torch.stack(samples, dim=1)  # [B,length,V]


@torch.no_grad()
def write(model: GeneratorModel, prefix: Tensor, length: int, *, ends: bool = False) -> Tensor:
    """Continue token prefixes [B,P] by ancestral sampling from torch's random state: [B,length].

    With `ends`, padding follows the first `EOS` of a text.
    """
    was_training = model.training
    model.eval()
    state: State | None = None
    fed, columns = prefix, []
    alive = torch.ones_like(prefix[:, 0], dtype=torch.bool)
    for _ in range(length):
        output = cast(Output, model(fed, state))
        state, logits = output.state, output.logits[:, -1].float()
        logits[:, PAD] = -torch.inf
        token = torch.multinomial(logits.softmax(-1), 1)[:, 0]  # [B]
        if ends:
            token = torch.where(alive, token, torch.full_like(token, PAD))
            alive = alive & (token != EOS)
        columns.append(token)
        fed = token[:, None]
    model.train(was_training)
    return torch.stack(columns, dim=1)


def token_log_probabilities(forward: nn.Module, prefix: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability [B,L] of every written token after a prefix [B,P], and a mask [B,L] without padding."""
    whole = torch.cat([prefix, written], dim=1)
    logits = forward(whole[:, :-1]).logits[:, prefix.shape[1] - 1 :].float()  # [B,L,V]
    picked = logits.log_softmax(-1).gather(-1, written[..., None])[..., 0]
    return picked, written != PAD


@torch.no_grad()
def rollout_rewards(
    rate: Rate, model: GeneratorModel, prefix: Tensor, written: Tensor, completions: int, ends: bool
) -> Tensor:
    """What every token is worth [B,L]: mean σ(D) of texts completed after it (SeqGAN, Yu et al. 2017, eq. 4).

    The last token's text is whole already.
    """
    B, L = written.shape
    rewards = torch.empty(B, L, device=written.device)
    for place in range(1, L + 1):
        start = torch.cat([prefix, written[:, :place]], dim=1)
        if place == L:
            rewards[:, -1] = torch.sigmoid(rate(start).float())
            continue
        many = start.repeat_interleave(completions, 0)  # [B·n, P+place]
        rest = write(model, many, L - place, ends=ends)
        if ends:  # a text that was over stays so
            over = (many[:, prefix.shape[1] :] == EOS).any(1, keepdim=True)
            rest = torch.where(over, torch.full_like(rest, PAD), rest)
        logits = rate(torch.cat([many, rest], dim=1)).float()
        rewards[:, place - 1] = torch.sigmoid(logits).view(B, completions).mean(1)
    return rewards


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """R_t = Σ_s γ^(s-t) r_s for s ≥ t, [B,L] (ScratchGAN, de Masson d'Autume et al. 2019, eq. 4)."""
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for place in range(rewards.shape[1] - 1, -1, -1):
        running = rewards[:, place] + discount * running
        returns[:, place] = running
    return returns


def policy_loss(log_probabilities: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """-Σ A log p / Σ 1 over real tokens [B,L] (Williams 1992): the mean over tokens."""
    weighted = torch.where(mask, advantages.detach() * log_probabilities, log_probabilities.new_zeros(()))
    return -weighted.sum() / mask.sum().clamp_min(1)
