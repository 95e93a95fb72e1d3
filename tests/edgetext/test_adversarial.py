"""The adversarial parts: what the discriminator sees, how gradients pass, how the game is annealed."""

import pytest
import torch

from edgetext.adversarial.discriminators import Discriminator
from edgetext.adversarial.estimators import gumbel_rollout, gumbel_softmax, inverse_temperature
from edgetext.adversarial.settings import DiscriminatorConfig
from edgetext.models import ModelConfig, build_model

V = 20


def test_gumbel_softmax_draws_from_the_softmax():
    """The argmax of a Gumbel-softmax sample is an exact sample of the categorical distribution."""
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    samples = gumbel_softmax(logits.expand(20_000, 4), 1.0)
    torch.testing.assert_close(samples.sum(-1), torch.ones(20_000))
    shares = torch.bincount(samples.argmax(-1), minlength=4) / 20_000
    assert (shares - logits.softmax(-1)).abs().max() < 0.015


def test_samples_sharpen_with_the_inverse_temperature():
    torch.manual_seed(0)
    logits = torch.randn(500, V)
    soft, sharp = gumbel_softmax(logits, 1.0), gumbel_softmax(logits, 100.0)
    assert soft.amax(-1).mean() < sharp.amax(-1).mean()
    assert sharp.amax(-1).mean() > 0.95


def test_annealing_ends_where_it_should():
    betas = [inverse_temperature(step, 10, 100.0) for step in range(10)]
    assert betas == sorted(betas)
    assert betas[0] == pytest.approx(100**0.1)
    assert betas[-1] == pytest.approx(100.0)


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_the_discriminator_s_gradient_reaches_the_generator(kind):
    extra = {"heads": 2, "kv_heads": 1, "ffn": 16, "context": 32} if kind == "transformer" else {}
    torch.manual_seed(0)
    model = build_model(ModelConfig(kind, V, 16, 16, 1, **extra))
    discriminator = Discriminator(DiscriminatorConfig(embedding=8, hidden=4), V)
    prefix = torch.randint(0, V, (4, 3))
    written = gumbel_rollout(model, model, prefix, 6, beta=1.0)
    assert written.shape == (4, 6, V)
    discriminator(written).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_discriminator_can_tell_two_languages_apart():
    """Texts that rise by one a step against shuffled ones: learnt in a few steps."""
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(embedding=16, hidden=8, dropout=0.0), V)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)

    def texts():
        rising = (torch.randint(0, V, (32, 1)) + torch.arange(8)) % V
        shuffled = torch.randint(0, V, (32, 8))
        return (torch.nn.functional.one_hot(x, V).float() for x in (rising, shuffled))

    for _ in range(60):
        rising, shuffled = texts()
        loss = torch.nn.functional.softplus(discriminator(shuffled) - discriminator(rising)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rising, shuffled = texts()
    assert (discriminator(rising) > discriminator(shuffled)).float().mean() > 0.9
