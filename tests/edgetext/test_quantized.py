"""Training through the int8 arithmetic: gradients, shared weights, and what a step of it does."""

import pytest
import torch
from torch.nn import functional as F

from edgetext.checkpoint import load_model, save_model
from edgetext.errors import ConfigError
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import GeneratorModel, sample_tokens
from edgetext.quantization import activation_block_levels, activation_byte_levels, block_levels
from edgetext.training.quantized import QuantizedGenerator, quantised_linear, quantised_lstm, recurrence

V = 37
CONFIGS = {
    "lstm": ModelConfig("lstm", V, 16, 24, 2, tied=True),
    "lstm-untied": ModelConfig("lstm", V, 12, 12, 1),
    "gru": ModelConfig("gru", V, 16, 24, 2, tied=True),
    "transformer": ModelConfig(
        "transformer", V, 16, 16, 2, heads=4, kv_heads=2, ffn=24, context=24, tied=True
    ),
    "transformer-bottleneck": ModelConfig(
        "transformer", V, 32, 32, 2, heads=2, kv_heads=1, ffn=20, context=24, bottleneck=16
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return build_model(CONFIGS[request.param])


@pytest.fixture
def tokens():
    return torch.randint(0, V, (3, 10), generator=torch.Generator().manual_seed(1))


def through(x, quantised):
    """A straight-through estimate, spelt for autograd."""
    return x + (quantised - x).detach()


def recurrence_by_autograd(gates, weight, h, c):
    """The LSTM recurrence over a quantised h, one operation of torch after the other."""
    outputs = []
    for step in gates:
        quantised = through(h, activation_byte_levels(h).dequantised(h.shape[-1]))
        i, f, g, o = (step + quantised @ weight.t()).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs), c


def test_the_recurrences_gradients_are_those_of_autograd():
    """In float64: six steps, three sequences, everything that has a gradient."""
    random = torch.Generator().manual_seed(0)
    shapes = ((6, 3, 20), (20, 5), (3, 5), (3, 5))
    inputs = [
        torch.randn(*shape, generator=random, dtype=torch.float64, requires_grad=True) for shape in shapes
    ]
    out_y, out_c = (
        torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((6, 3, 5), (3, 5))
    )
    results = []
    for run in (recurrence, recurrence_by_autograd):
        y, c = run(*inputs)
        gradients = torch.autograd.grad((y * out_y).sum() + (c * out_c).sum(), inputs)
        results.append((y, c, *gradients))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_layer_starts_from_a_given_state_and_passes_gradients_to_it():
    torch.manual_seed(0)
    layer = torch.nn.LSTM(6, 5, batch_first=True)
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]
    x, h, c = torch.randn(2, 7, 6), torch.randn(1, 2, 5, requires_grad=True), torch.randn(1, 2, 5)
    y, last_h, last_c = quantised_lstm(x, (h, c), weights)
    exact, (exact_h, exact_c) = layer(x, (h, c))
    for found, expected in ((y, exact), (last_h, exact_h), (last_c, exact_c)):
        assert found.shape == expected.shape
        assert 0 < (found - expected).abs().max() < 0.1
    y.sum().backward()
    assert h.grad.abs().min() > 0
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


def test_a_products_gradients_are_those_of_the_quantised_operands():
    random = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 41, generator=random, requires_grad=True) for n in (4, 9))
    bias, out = torch.randn(9, generator=random), torch.randn(4, 9, generator=random)
    y = quantised_linear(x, weight, bias)
    (y * out).sum().backward()
    qx = activation_block_levels(x.detach()).dequantised(41)
    qw = block_levels(weight.detach()).dequantised(41)
    torch.testing.assert_close(y, qx @ qw.t() + bias)
    torch.testing.assert_close(x.grad, out @ qw)
    torch.testing.assert_close(weight.grad, out.t() @ qx)


def test_every_weight_gets_a_gradient(model, tokens):
    logits = QuantizedGenerator(model)(tokens[:, :-1]).logits
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_student_itself_stays_a_float_model(model, tokens, tmp_path):
    """Its own forward is not quantised, and what a step through the wrapper changes is what is saved."""
    before = model(tokens).logits
    quantised = QuantizedGenerator(model)
    difference = (quantised(tokens).logits - before).abs()
    assert 0 < difference.mean() < 0.05 * before.std()
    assert torch.equal(model(tokens).logits, before)
    assert [id(p) for p in quantised.parameters()] == [id(p) for p in model.parameters()]
    quantised(tokens).logits.square().mean().backward()
    torch.optim.SGD(quantised.parameters(), lr=0.1).step()
    save_model(tmp_path, quantised.model)
    loaded = load_model(tmp_path)
    assert not torch.equal(loaded(tokens).logits, before)
    assert torch.equal(loaded(tokens).logits, model.eval()(tokens).logits)


def test_shapes_are_those_of_the_student(model, tokens):
    ours, theirs = QuantizedGenerator(model)(tokens, internals=True), model(tokens, internals=True)
    assert (ours.logits.shape, ours.logits.dtype) == (theirs.logits.shape, torch.float32)
    for field in ("hidden", "state", "attention", "values"):
        shapes = [[tensor.shape for tensor in getattr(output, field)] for output in (ours, theirs)]
        assert shapes[0] == shapes[1]


def test_stepping_with_a_state_equals_one_pass(model, tokens):
    """Activations are quantised per row, so cutting a sequence or a batch changes nothing.

    In float64, where no difference of summation is large enough to move a rounding.
    """
    quantised = QuantizedGenerator(model.double().eval())
    whole = quantised(tokens).logits
    parts, state = [], None
    for column in range(10):
        output = quantised(tokens[:, column : column + 1], state)
        parts.append(output.logits)
        state = output.state
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(quantised(tokens[1:2]).logits, whole[1:2])


def test_soft_tokens_that_are_one_hot_equal_ids(model, tokens):
    quantised = QuantizedGenerator(model).eval()
    soft = quantised.embed_distribution(F.one_hot(tokens, V).float())
    torch.testing.assert_close(soft, quantised(tokens).hidden[0])
    assert torch.equal(quantised(None, embeddings=soft).logits, quantised(tokens).logits)


def test_autocast_does_not_touch_the_arithmetic(model, tokens):
    quantised = QuantizedGenerator(model).eval()
    expected = quantised(tokens).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantised(tokens).logits, expected)
        assert model(tokens).logits.dtype == torch.bfloat16


def test_it_samples_like_any_generator(model):
    quantised = QuantizedGenerator(model)
    assert sample_tokens(quantised, 3, 8, seed=1) == sample_tokens(quantised, 3, 8, seed=1)


def test_training_through_it_lowers_the_loss_of_the_quantised_model(model, tokens):
    quantised = QuantizedGenerator(model)
    optimizer = torch.optim.Adam(quantised.parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        logits = quantised(tokens[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_generator_that_cannot_be_exported_is_refused():
    class Foreign(GeneratorModel):
        pass

    with pytest.raises(ConfigError, match="Foreign cannot be trained through the int8 arithmetic"):
        QuantizedGenerator(Foreign())
