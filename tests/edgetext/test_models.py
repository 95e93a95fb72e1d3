"""All kinds: shapes, one state for prompt and decode, exact parameter counts, checkpoints."""

import pytest
import torch

from edgetext.checkpoint import load_model, save_model
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import sample_tokens
from edgetext.models.presets import PRESETS, resolve_model

V = 37
CONFIGS = {
    "lstm": ModelConfig("lstm", V, 12, 12, 1),
    "lstm-projected-tied": ModelConfig("lstm", V, 8, 12, 2, tied=True),
    "gru": ModelConfig("gru", V, 12, 12, 1),
    "gru-projected-tied": ModelConfig("gru", V, 8, 12, 2, tied=True),
    "transformer": ModelConfig("transformer", V, 16, 16, 2, heads=4, kv_heads=4, ffn=24, context=24),
    "transformer-grouped-tied": ModelConfig(
        "transformer", V, 16, 16, 2, heads=4, kv_heads=2, ffn=24, context=24, tied=True
    ),
    "transformer-bottleneck": ModelConfig(
        "transformer", V, 24, 24, 2, heads=2, kv_heads=1, ffn=20, context=24, tied=True, bottleneck=8
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return build_model(CONFIGS[request.param]).eval()


@pytest.fixture
def tokens():
    return torch.randint(0, V, (3, 10), generator=torch.Generator().manual_seed(1))


def test_parameters_are_counted_from_the_shapes(model):
    assert model.parameters_count() == model.config.parameters()


def test_output_shapes(model, tokens):
    output = model(tokens)
    assert output.logits.shape == (3, 10, V)
    assert len(output.hidden) == model.config.layers + 1
    assert output.hidden[-1].shape == (3, 10, model.config.hidden)


def test_stepping_with_a_state_equals_one_pass(model, tokens):
    whole = model(tokens).logits
    output = model(tokens[:, :4])
    parts, state = [output.logits], output.state
    for column in range(4, 10):
        output = model(tokens[:, column : column + 1], state)
        parts.append(output.logits)
        state = output.state
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_no_position_sees_a_later_token(model, tokens):
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % V
    torch.testing.assert_close(model(tokens).logits[:, :6], model(changed).logits[:, :6])
    assert not torch.allclose(model(tokens).logits[:, 6:], model(changed).logits[:, 6:])


def test_soft_tokens_that_are_one_hot_equal_ids(model, tokens):
    one_hot = torch.nn.functional.one_hot(tokens, V).float()
    soft = model(None, embeddings=model.embed_distribution(one_hot)).logits
    torch.testing.assert_close(soft, model(tokens).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("transformer")])
def test_internals_are_the_attention_that_the_transformer_uses(name, tokens):
    """The causal softmax of the scores, applied to the values, is what the output projection gets."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[name]).eval()
    received = []
    for block in model.blocks:
        block.attention.output.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    output = model(tokens, internals=True)
    heads, D = model.config.heads, model.config.head_dim
    future = torch.ones(10, 10, dtype=torch.bool).triu(1)
    for scores, values, expected in zip(output.attention, output.values, received, strict=True):
        assert (scores.shape, values.shape) == ((3, heads, 10, 10), (3, heads, 10, D))
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ values
        torch.testing.assert_close(mixed.transpose(1, 2).reshape(3, 10, heads * D), expected)
    assert torch.equal(output.logits, model(tokens).logits)


def test_internals_come_only_where_asked_for_and_where_there_are_any(model, tokens):
    assert model(tokens).attention == model(tokens).values == ()
    first = model(tokens[:, :4], internals=True)
    assert model(tokens[:, 4:], first.state, internals=True).attention == ()
    layers = model.config.layers if model.config.kind == "transformer" else 0
    assert len(first.attention) == len(first.values) == layers


def test_gradients_flow_through_internals(tokens):
    torch.manual_seed(0)
    model = build_model(CONFIGS["transformer-grouped-tied"])
    output = model(tokens, internals=True)
    (output.attention[-1].square().mean() + output.values[-1].square().mean()).backward()
    assert model.blocks[-1].attention.qkv.weight.grad.abs().sum() > 0
    assert model.blocks[0].ffn.down.weight.grad.abs().sum() > 0


def test_a_condition_is_refused_by_an_unconditioned_model(model, tokens):
    with pytest.raises(ValueError, match="unconditioned"):
        model(tokens, condition=torch.zeros(3, 2))


def test_checkpoints_bring_back_the_same_model(model, tokens, tmp_path):
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    if model.config.tied:
        assert loaded.head.weight is loaded.embedding.weight


def test_a_checkpoint_cut_short_is_refused(model, tmp_path):
    save_model(tmp_path, model)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_model(tmp_path)


def test_sampling_is_fixed_by_the_seed_and_leaves_torch_alone(model):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = sample_tokens(model, 6, 12, seed=3, batch=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == sample_tokens(model, 6, 12, seed=3, batch=4)
    assert first != sample_tokens(model, 6, 12, seed=4, batch=4)
    assert all(0 not in text and len(text) <= 12 for text in first)


def test_sampling_follows_the_model():
    """Ten thousand one-token draws against the softmax they come from."""
    torch.manual_seed(0)
    model = build_model(CONFIGS["lstm"]).eval()
    logits = model(torch.zeros(1, 1, dtype=torch.int64)).logits[0, -1].detach()
    logits[1] = -torch.inf  # padding is never drawn
    expected = logits.softmax(-1)
    draws = sample_tokens(model, 10_000, 1, seed=1, batch=10_000)
    counts = torch.zeros(V)
    for text in draws:
        counts[text[0] if text else 0] += 1
    assert (counts / 10_000 - expected).abs().max() < 0.012


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "rnn"}, "unknown"),
        ({"hidden": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"kind": "transformer", "heads": 5}, "multiple of heads"),
        ({"kind": "transformer", "heads": 4, "kv_heads": 3}, "multiple of kv_heads"),
        ({"kind": "transformer", "heads": 4, "kv_heads": 2}, "ffn"),
        ({"kind": "transformer", "heads": 2, "bottleneck": 16}, r"below hidden \(16\)"),
        ({"kind": "transformer", "heads": 4, "bottleneck": 6}, "bottleneck 6 must be a multiple of heads"),
        ({"bottleneck": 8}, "belong to a transformer"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    values = {"kind": "lstm", "vocab_size": 10, "embedding": 16, "hidden": 16, "layers": 1}
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict({**values, **changes})


def test_every_preset_builds_with_the_parameters_it_states():
    for config, _ in PRESETS.values():
        small = config.with_vocab(64)
        assert build_model(small).parameters_count() == small.parameters()


def test_a_shape_without_a_bottleneck_is_written_as_before_there_were_any():
    assert "bottleneck" not in CONFIGS["transformer"].to_dict()
    for config in CONFIGS.values():
        assert ModelConfig.from_dict(config.to_dict()) == config


def test_bottleneck_blocks_work_at_their_inner_width_on_a_wide_residual_stream(tokens):
    torch.manual_seed(0)
    model = build_model(CONFIGS["transformer-bottleneck"])
    output = model(tokens, internals=True)
    assert [hidden.shape[-1] for hidden in output.hidden] == [24, 24, 24]
    assert output.state[0].shape == (3, 1, 10, 4)
    assert output.values[0].shape == (3, 2, 10, 4)
    assert model.blocks[0].ffn.gate_up.weight.shape == (40, 8)
    with torch.no_grad():
        for block in model.blocks:
            block.leave.weight.zero_()
    closed = model(tokens)
    torch.testing.assert_close(closed.hidden[-1], closed.hidden[0])  # nothing passes around a bottleneck


def test_a_bottleneck_preset_has_its_teachers_layers_widths_and_heads():
    teacher, student = (PRESETS[f"transformer-{name}"][0] for name in ("teacher", "student-bottleneck"))
    assert (student.hidden, student.layers, student.heads) == (teacher.hidden, teacher.layers, teacher.heads)
    changed = resolve_model("transformer-student-bottleneck,bottleneck=40,layers=2", 99)
    assert (changed.bottleneck, changed.head_dim, changed.layers) == (40, 8, 2)


def test_shapes_can_be_spelt_out_or_changed():
    assert resolve_model("lstm-student,hidden=128,tied=false", 99).hidden == 128
    spelt = resolve_model("transformer,hidden=32,layers=2,heads=4,kv_heads=2,ffn=48,context=64", 99)
    assert (spelt.embedding, spelt.vocab_size) == (32, 99)


@pytest.mark.parametrize("text", ["lstm-studnet", "lstm-student,depth=3", "lstm-student,hidden=big", "lstm"])
def test_a_misspelt_shape_is_refused(text):
    with pytest.raises(ConfigError):
        resolve_model(text, 99)


def test_attention_written_out_is_the_fused_kernels():
    torch.manual_seed(0)
    config = ModelConfig("transformer", 50, 32, 32, 2, heads=4, kv_heads=2, ffn=48, context=64)
    model, tokens = build_model(config), torch.randint(50, (3, 20))
    with torch.autocast("cpu", torch.bfloat16):
        trained = model(tokens).logits  # with gradients on a CPU in bf16: written out
        with torch.no_grad():
            fused = model(tokens).logits
    assert trained.grad_fn is not None
    torch.testing.assert_close(trained.float(), fused.float(), atol=0.02, rtol=0.02)
    exact = model(tokens).logits
    torch.testing.assert_close(trained.float(), exact, atol=0.05, rtol=0.05)
