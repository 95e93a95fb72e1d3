"""What makes a conditioned generator heed its label: a text must be likelier under it than under another.

Likelihood alone hardly does. A label says less about a text than any of its words, so a model gains little by
it (on movie reviews a thousandth of a nat per token), and a small one spends its weights elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class RandomState(NamedTuple):
    """torch's random state, to drop the same units again."""

    device: torch.device
    cpu: Tensor
    own: Tensor | None
    """Of the device, where it is not the CPU."""

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Note the state that a forward pass on a device begins with."""
        own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), own)

    def restore(self) -> None:
        """Begin with it once more."""
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            torch.cuda.set_rng_state(self.own, self.device)


def label_contrast(own: Tensor, other: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Surprise at a text's label, by Bayes' rule between its own and one other label, in nats per token.

    -log p(own | x) = log(1 + p(x | other) / p(x | own)), the discriminative loss of GeDi (Krause et al. 2021,
    eq. 7) with the generator's own likelihoods; the sum over rows over the number of their real tokens, as a
    label is one more thing that is said of a text.

    Args:
        own: logits [B,T,V] under the row's label.
        other: logits [B,T,V] under another.
        targets: [B,T].
        mask: [B,T], False where a target is padding.
    """
    likelihoods = [
        (logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0] * mask).sum(1)
        for logits in (own, other)
    ]  # [B] each
    return F.softplus(likelihoods[1] - likelihoods[0]).sum() / mask.sum()


def other_labels(condition: Tensor) -> Tensor:
    """For every row of a condition [B,C] another of the C labels, drawn with torch's random state."""
    count = condition.shape[1]
    shift = torch.randint(1, count, (len(condition),), device=condition.device)
    return F.one_hot((condition.argmax(1) + shift) % count, count).to(condition.dtype)
