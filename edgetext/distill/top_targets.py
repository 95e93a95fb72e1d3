"""What a cache keeps of a distribution: the likeliest tokens, the mass of the others, and draws from them."""

from __future__ import annotations

import torch
from torch import Tensor

from edgetext.distill.cache_format import CacheSettings, record_type

MIXER = 0x45D9F3B
"""Odd multiplier of a hash of 32 bits: neighbouring and recurring positions get unrelated offsets."""
TOKEN_BYTES = 300
"""Bytes of a record that the draws fill up to, unless their number is given."""
MOST_DRAWN = 80
"""Most draws, unless their number is given."""


def tail_samples(settings: CacheSettings, vocab_size: int) -> int:
    """S: as given, or what fits; none where nothing is left to draw from."""
    if settings.top_k >= vocab_size - 1:
        return 0
    if settings.tail_samples is not None:
        return settings.tail_samples
    bare = record_type(settings.top_k, 0, vocab_size).itemsize
    each = record_type(settings.top_k, 1, vocab_size).itemsize - bare
    return max(0, min((TOKEN_BYTES - bare) // each, MOST_DRAWN))


def top_targets(
    logits: Tensor, top_k: int, tail_samples: int, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is stored of logits [N,V] at positions [N] of the stream.

    The rest is summed itself, not taken as one minus the others, so a small one keeps its precision. Its S
    tokens are drawn systematically: at equal distances of the cumulative mass, from an offset that the
    position gives, so that the expected number of times a token is drawn is proportional to its probability
    (sampled soft targets: Anshumann et al. 2025, "Sparse Logit Sampling").

    Returns:
        The K likeliest ids [N,K], their log-probabilities [N,K], the log of the rest's mass [N], and ids
        [N,S] drawn from the rest.
    """
    values, ids = logits.float().topk(top_k, dim=-1)  # [N,K], the likeliest first
    mass = (logits.float() - values[:, :1]).exp_()  # [N,V], relative to the likeliest
    total = mass.sum(-1)  # [N]
    rest = mass.scatter_(-1, ids, 0.0).sum(-1)
    drawn = _draw(mass, tail_samples, positions.to(mass.device))
    return ids, values - values[:, :1] - total.log()[:, None], rest.log() - total.log(), drawn


def _draw(mass: Tensor, count: int, positions: Tensor) -> Tensor:
    """Draw ids [N,S] in proportion to mass [N,V], which need not sum to one; any id where there is none."""
    if count == 0:
        return positions.new_zeros(len(mass), 0)
    if mass.device.type == "mps":  # has no double precision
        mass, positions = mass.cpu(), positions.cpu()
    upto = mass.double().cumsum(-1)  # [N,V]
    points = (_offsets(positions)[:, None] + torch.arange(count, device=mass.device)) / count  # [N,S]
    ids = torch.searchsorted(upto, points * upto[:, -1:], right=True)
    return ids.clamp_max_(mass.shape[-1] - 1)


def _offsets(positions: Tensor) -> Tensor:
    """A number in [0, 1) for every position [N], as if drawn, but always the same one."""
    bits = positions & 0xFFFFFFFF
    for _ in range(2):
        bits = ((bits >> 16) ^ bits) * MIXER & 0xFFFFFFFF
    return ((bits >> 16) ^ bits).double() / (1 << 32)
