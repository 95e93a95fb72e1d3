"""The game on a distribution that is known: N(4, 0.5) from uniform noise, one number at a time.

The classic demonstration of mode collapse (Goodfellow et al. 2014, Fig. 1): a discriminator that sees one
number at a time is content with a generator that always says 4; one with minibatch discrimination sees that
the batch is too alike (Salimans et al. 2016, §3.2). The moves are those of text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetext.adversarial.game import discriminator_move, generator_move
from edgetext.adversarial.minibatch import minibatch_layer
from edgetext.adversarial.objectives import OBJECTIVES

MEAN, DEVIATION = 4.0, 0.5
"""Of the distribution to be learnt."""
BATCH, RATE, WIDTH = 32, 2e-3, 32


@dataclass(frozen=True)
class GaussianResult:
    """What a generator of numbers has learnt."""

    samples: Tensor
    """[N] numbers after the last step."""
    deviations: tuple[float, ...]
    """Standard deviation of a batch, along the training."""

    @property
    def mean(self) -> float:
        """Mean of the samples; `MEAN` would be right."""
        return float(self.samples.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation of the samples; `DEVIATION` would be right."""
        return float(self.samples.std())


class _Judge(nn.Module):
    """Numbers [B,1] → logits [B]."""

    def __init__(self, minibatch: str) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.minibatch, seen = minibatch_layer(minibatch, WIDTH)
        self.score = nn.Linear(seen, 1)

    def forward(self, inputs: Tensor, what: str = "logits") -> Tensor:
        features = self.trunk(inputs)
        return features if what == "features" else self.score(self.minibatch(features))[:, 0]


def learn_gaussian(
    minibatch: str = "none", objective: str = "non-saturating", steps: int = 1500, seed: int = 0
) -> GaussianResult:
    """Play the game for so many steps; the same arguments give the same result on one machine.

    `minibatch` is ``none``, ``discrimination`` or ``deviation``, `objective` one of `OBJECTIVES`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = nn.Sequential(nn.Linear(1, WIDTH), nn.Softplus(), nn.Linear(WIDTH, 1))
        judge, rules = _Judge(minibatch), OBJECTIVES[objective]
        players = [torch.optim.Adam(p.parameters(), RATE, betas=(0.5, 0.999)) for p in (judge, generator)]
        deviations = []
        for step in range(steps):
            real = MEAN + DEVIATION * torch.randn(BATCH, 1)
            fake = generator(_noise(BATCH))
            _descend(players[0], discriminator_move(judge, rules, real, fake)[0])
            _descend(players[1], generator_move(judge, rules, real, fake))
            if step % 25 == 0:
                deviations.append(float(fake.detach().std()))
        with torch.no_grad():
            return GaussianResult(generator(_noise(4000))[:, 0], tuple(deviations))


def _noise(count: int) -> Tensor:
    """Uniform in [-1, 1), [count,1]."""
    return 2 * torch.rand(count, 1) - 1


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
