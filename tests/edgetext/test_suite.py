"""Every gradient, objective and discriminator of the suite, with generators of both kinds."""

import itertools

import numpy as np
import pytest
import torch

from edgetext.adversarial.discriminators import Discriminator
from edgetext.adversarial.estimators import (
    EOS,
    PAD,
    discounted_returns,
    gumbel_rollout,
    policy_loss,
    rollout_rewards,
    write,
)
from edgetext.adversarial.game import discriminator_move
from edgetext.adversarial.minibatch import MinibatchDeviation, MinibatchDiscrimination
from edgetext.adversarial.objectives import OBJECTIVES, feature_matching, gradient_penalty, r1_penalty
from edgetext.adversarial.refine import RefineTask
from edgetext.adversarial.refinements import REFINEMENTS, describe, read_refinement, to_toml
from edgetext.adversarial.settings import GRADIENTS, DiscriminatorConfig, RefineSettings
from edgetext.distill.recipes import RECIPES
from edgetext.distill.targets import LiveTargets
from edgetext.distill.tasks import DistillTask
from edgetext.errors import ConfigError
from edgetext.evaluate.frontier import Referee
from edgetext.models import ModelConfig, build_model
from edgetext.training.data import DocumentSampler, WindowSampler, document_windows
from edgetext.training.loop import Turn
from edgetext.training.settings import OptimizerSettings

V = 24
SHAPES = {
    "lstm": ModelConfig("lstm", V, 16, 16, 1),
    "transformer": ModelConfig("transformer", V, 16, 16, 1, heads=2, kv_heads=1, ffn=16, context=64),
}
SMALL = {"embedding": 8, "hidden": 8}


def stream(documents=60, seed=0):
    random = np.random.default_rng(seed)
    pieces = [[0, *(3 + (random.integers(21) + np.arange(10)) % 21)] for _ in range(documents)]
    return np.array([*np.concatenate(pieces), 0], dtype=np.uint16)


def game(kind, settings, by_document=True):
    torch.manual_seed(0)
    model, teacher = build_model(SHAPES[kind]), build_model(SHAPES["lstm"])
    sampler = (DocumentSampler if by_document else WindowSampler)(stream(), 24, 8, 0)
    recipe = RECIPES["hinton"]
    windows = document_windows(stream(10, 1), 24, 8)
    anchor = DistillTask(
        *("anchor", model, recipe, 4, sampler, windows, OptimizerSettings(1e-3)),
        targets=LiveTargets(teacher),
        teacher=teacher.config,
    )
    referee = Referee(stream(), stream(20, 1), V, texts=10)
    task = RefineTask(anchor, settings, 4, referee, seed=1)
    task.prepare({**task.players, "teacher": teacher}, torch.device("cpu"))
    return task


def moves(task, step=3):
    """Play one step; returns the figures of every turn, after checking who got a gradient."""
    found = []
    for turn in task.turns(step):
        assert isinstance(turn, Turn)
        for player in task.players.values():
            player.zero_grad()
        loss, figures = turn.loss(0)
        loss.backward()
        assert torch.isfinite(loss)
        moved = [p for p in task.players[turn.player].parameters() if p.grad is not None]
        assert sum(float(p.grad.abs().sum()) for p in moved) > 0
        found.append(figures)
    return found


def settings_for(gradient, kind):
    objective = "non-saturating"
    shape = DiscriminatorConfig(kind, **SMALL)
    return RefineSettings("x", gradient, objective, shape, prefix=3, length=12, rollouts=6, candidates=2)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("gradient", [name for name in GRADIENTS if name != "resampled"])
def test_every_gradient_plays_with_every_generator_and_discriminator(gradient, kind):
    for trunk in ("cnn", "lstm", "transformer"):
        if gradient == "reinforce-dense" and trunk == "cnn":
            continue
        figures = moves(game(kind, settings_for(gradient, trunk)))
        assert "adversarial" in figures[-1]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_plays_and_prefers_real_text(objective):
    rules = OBJECTIVES[objective]
    better, worse = torch.tensor([2.0, 3.0]), torch.tensor([-2.0, -1.0])
    assert rules.discriminator(better, worse) < rules.discriminator(worse, better)
    assert rules.generator(better, better) < rules.generator(better, worse)
    settings = RefineSettings("x", "gumbel", objective, DiscriminatorConfig(**SMALL), length=12, matching=0.5)
    moves(game("lstm", settings, by_document=False))


@pytest.mark.parametrize(
    "options", [{"spectral_norm": True}, {"minibatch": "discrimination"}, {"minibatch": "deviation"}]
)
def test_options_of_the_discriminator_play_with_r1(options):
    for trunk in ("cnn", "transformer"):
        shape = DiscriminatorConfig(trunk, **SMALL, **options)
        moves(game("lstm", RefineSettings("x", "gumbel", "hinge", shape, length=12, r1=0.5)))


def test_a_transformer_discriminator_has_the_second_derivatives_of_wgan_gp_and_r1():
    judge = Discriminator(DiscriminatorConfig("transformer", **SMALL, dropout=0.0), V)
    real = torch.nn.functional.one_hot(torch.randint(V, (4, 9)), V).float()
    for objective, r1 in (("wgan-gp", 0.0), ("hinge", 0.5)):
        judge.zero_grad()
        discriminator_move(judge, OBJECTIVES[objective], real, real.flip(0), r1)[0].backward()
        assert judge.embedding.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("beta1 = 1.5", "beta1"),
        ("discriminator_rate = -1.0", "discriminator_rate"),
        ("rollouts = 2.5", "rollouts is 2.5; it must be a whole number"),
        ('prefix = "8"', "prefix"),
        ("adversarial_weight = nan", "adversarial_weight"),
        ('discriminator = "cnn"', "a table"),
        ('[discriminator]\nspectral_norm = "no"', "true or false"),
        ('length = 600\n[discriminator]\nkind = "transformer"', "512 tokens"),
    ],
)
def test_a_file_with_rules_that_cannot_work_is_refused_at_once(tmp_path, text, named):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_refinement(str(path))


def test_penalties_have_their_closed_form_on_a_linear_discriminator():
    slope = torch.tensor([3.0, 4.0])

    def judge(x):
        return x @ slope

    x, y = torch.randn(5, 2), torch.randn(5, 2)
    assert float(r1_penalty(judge, x)) == pytest.approx(12.5)
    assert float(gradient_penalty(judge, x, y)) == pytest.approx(16.0, rel=1e-4)
    assert float(feature_matching(x, x + 2)) == pytest.approx(8.0, rel=1e-4)


def test_minibatch_layers_see_that_a_batch_is_all_alike():
    torch.manual_seed(0)
    alike, varied = torch.ones(6, 4), 3 * torch.randn(6, 4)
    discrimination, deviation = MinibatchDiscrimination(4), MinibatchDeviation()
    assert float(discrimination(alike)[:, 4:].detach().mean()) == pytest.approx(1.0)
    assert float(discrimination(varied)[:, 4:].detach().mean()) < 0.6
    assert float(deviation(alike)[0, -1]) < 0.01 < 1 < float(deviation(varied)[0, -1])


def test_each_side_is_judged_as_a_batch_of_its_own():
    calls = []

    def judge(x, what):
        calls.append(len(x))
        return x.sum((1, 2))

    discriminator_move(judge, OBJECTIVES["hinge"], torch.ones(4, 2, 3), torch.zeros(4, 2, 3))
    assert calls == [4, 4]


def test_written_texts_end_and_stay_ended():
    torch.manual_seed(0)
    model = build_model(SHAPES["lstm"])
    model.head.bias.data[EOS] = 2.0
    prefix = torch.zeros(30, 1, dtype=torch.int64)
    soft = gumbel_rollout(model, model, prefix, 12, 1.0, ends=True).argmax(-1)
    for texts in (write(model, prefix, 12, ends=True), soft):
        for text in texts.tolist():
            if EOS in text:
                assert set(text[text.index(EOS) + 1 :]) <= {PAD}
    assert not (write(model, prefix, 12) == PAD).any()


def test_rewards_of_completions_find_the_token_that_counts():
    """A text is worth 1 if its second token is 5: the rewards before it are chance, from it on certain."""
    torch.manual_seed(0)
    model = build_model(SHAPES["lstm"])
    written = torch.tensor([[7, 5, 6, 8], [7, 9, 6, 8]])
    prefix = torch.zeros(2, 1, dtype=torch.int64)
    rewards = rollout_rewards(lambda t: 50.0 * (2.0 * (t[:, 2] == 5) - 1), model, prefix, written, 8, False)
    assert rewards[0, 1:].tolist() == pytest.approx([1, 1, 1])
    assert rewards[1, 1:].tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert rewards[0, 0] < 0.6


def test_returns_and_policy_loss():
    assert discounted_returns(torch.tensor([[1.0, 0.0, 2.0]]), 0.5).tolist() == [[1.5, 1.0, 2.0]]
    mask = torch.tensor([[True, True, False]])
    loss = policy_loss(torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[1.0, 2.0, 5.0]]), mask)
    assert float(loss) == pytest.approx(2.5)


def test_token_logits_do_not_see_what_follows():
    torch.manual_seed(0)
    texts = torch.randint(0, V, (2, 8))
    changed = texts.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % V
    for kind in ("lstm", "transformer"):
        judge = Discriminator(DiscriminatorConfig(kind, **SMALL), V).eval()
        torch.testing.assert_close(judge.tokens(texts)[:, :5], judge.tokens(changed)[:, :5])
        one_hot = torch.nn.functional.one_hot(texts, V).float()
        torch.testing.assert_close(judge(one_hot), judge(texts))


def test_refinements_by_name_and_by_file(tmp_path):
    for settings in REFINEMENTS.values():
        path = tmp_path / f"{settings.name}.toml"
        path.write_text(to_toml(settings))
        assert read_refinement(str(path)) == settings
        assert settings.name in describe(settings)
    with pytest.raises(ConfigError, match="no refinement"):
        read_refinement("nothing")
    (tmp_path / "bad.toml").write_text("speed = 3")
    with pytest.raises(ConfigError, match="has no speed"):
        read_refinement(str(tmp_path / "bad.toml"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gradient": "reinforce-dense"}, "kind lstm or transformer"),
        ({"gradient": "resampled", "objective": "hinge"}, "non-saturating"),
        ({"gradient": "resampled", "objective": "non-saturating", "r1": 0.1}, "set r1 to 0"),
        ({"gradient": "selected", "matching": 0.5}, "matching to 0"),
        ({"r1": 1.0, "discriminator": DiscriminatorConfig("lstm")}, "second derivatives"),
        ({"gradient": "selected", "candidates": 1}, "2 or more"),
        (
            {"gradient": "resampled", "objective": "non-saturating", "discriminator_warmup": 0},
            "discriminator_warmup",
        ),
        ({"objective": "mean"}, "unknown"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(changes, says):
    with pytest.raises(ConfigError, match=says):
        RefineSettings(**changes)


def test_all_named_games_play():
    games = {name: rules for name, rules in REFINEMENTS.items() if rules.gradient != "resampled"}
    for (name, settings), kind in zip(games.items(), itertools.cycle(SHAPES), strict=False):
        small = {**settings.to_dict(), "length": 10, "prefix": 3, "rollouts": 4}
        assert moves(game(kind, RefineSettings.from_dict(small))), name
