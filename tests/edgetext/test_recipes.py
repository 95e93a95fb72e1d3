"""Recipes: named, read from files, explained, refused where they cannot work."""

import pytest
from click.testing import CliRunner

from edgetext.cli import group
from edgetext.distill.objective import TeacherView, check_recipe
from edgetext.distill.recipe import LOSSES, Phase, Recipe, Term, to_toml
from edgetext.distill.recipes import RECIPES, read_recipe, recipe_from_dict
from edgetext.errors import ConfigError
from edgetext.models.config import ModelConfig

LSTM = ModelConfig("lstm", 100, 16, 24, 2)
SMALL_LSTM = ModelConfig("lstm", 100, 8, 8, 2)
TRANSFORMER = ModelConfig("transformer", 100, 32, 32, 4, heads=4, kv_heads=2, ffn=48, context=64)
SMALL_TRANSFORMER = ModelConfig("transformer", 100, 16, 16, 2, heads=4, kv_heads=4, ffn=32, context=64)
HALF_TRANSFORMER = ModelConfig("transformer", 100, 32, 32, 2, heads=4, kv_heads=2, ffn=48, context=64)

ASKED_FOR = [
    *("hinton", "logit-mse", "bilstm", "pkd-skip", "pkd-last", "distilbert", "tinybert"),
    *("mobilebert", "minilm", "sequence-level", "reverse-kl", "jsd", "skew-kl", "on-policy"),
]


def test_the_recipes_of_the_field_are_there_with_their_paper():
    for name in ASKED_FOR:
        assert RECIPES[name].source
        assert RECIPES[name].losses() <= set(LOSSES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_toml_and_json(name, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(RECIPES[name]))
    assert read_recipe(str(path)) == RECIPES[name]
    assert recipe_from_dict(RECIPES[name].to_dict()) == RECIPES[name]


def test_recipes_are_combined_in_a_file(tmp_path):
    path = tmp_path / "both.toml"
    path.write_text(
        '[[phases]]\ninclude = ["hinton", "pkd-last"]\nshare = 2\n'
        '[[phases.terms]]\nloss = "cosine"\nweight = 3.0\nlayers = "final"\n'
        '[[phases]]\ninclude = ["on-policy"]\nteacher_text = 0.25\n'
    )
    recipe = read_recipe(str(path))
    assert recipe.name == "both"
    first, second = recipe.phases
    assert [term.loss for term in first.terms] == ["hard", "soft", "hidden-normalised", "cosine"]
    assert first.terms[-1] == Term("cosine", 3.0, layers="final")
    assert (second.share, second.student_text, second.teacher_text) == (1.0, 0.5, 0.25)
    assert recipe.phase_at(199, 300)[0] == first
    assert recipe.phase_at(200, 300)[0] == second


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("phases = 3", "both.toml"),
        ("", "no phase"),
        ("[[phases]]\nshare = 1", "at least one term"),
        ('[[phases]]\n[[phases.terms]]\nloss = "sofa"', "'sofa' is unknown"),
        ('[[phases]]\n[[phases.terms]]\nloss = "soft"\ntemprature = 2', "temprature"),
        ('[[phases]]\nteacher_text = 0.7\nstudent_text = 0.7\n[[phases.terms]]\nloss = "soft"', "together"),
        ('[[phases]]\ninclude = ["nothing"]', "'nothing' is unknown"),
        ('[[phases]]\ninclude = ["tinybert"]', "several phases"),
        ('[[phases]]\nshare = inf\n[[phases.terms]]\nloss = "soft"', "share"),
        ('[[phases]]\n[[phases.terms]]\nloss = "soft"\nweight = 0', "weight 0"),
        ('[[phases]]\nstudent_text = 0.5\n[[phases.terms]]\nloss = "hard"', "own text"),
        ("[[phases", "is not TOML"),
    ],
)
def test_a_file_that_cannot_work_is_refused_by_name(tmp_path, text, complaint):
    path = tmp_path / "both.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_recipe(str(path))
    assert "both.toml" in str(caught.value)


def test_soft_targets_change_their_temperature_and_balance():
    changed = RECIPES["pkd-last"].with_soft(4.0, 0.25)
    terms = {term.loss: term for term in changed.phases[0].terms}
    assert (terms["soft"].weight, terms["hard"].weight, terms["soft"].temperature) == (0.25, 0.75, 4.0)
    assert terms["hidden-normalised"] == RECIPES["pkd-last"].phases[0].terms[-1]
    with pytest.raises(ConfigError, match="--temperature"):
        RECIPES["jsd"].with_soft(2.0, None)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "complaint"),
    [
        ("hinton", SMALL_LSTM, None, "needs a teacher"),
        ("tinybert", SMALL_LSTM, TeacherView(TRANSFORMER), "student is a transformer, not a lstm"),
        ("bilstm", SMALL_LSTM, TeacherView(LSTM), "teacher is a transformer"),
        ("pkd-skip", SMALL_LSTM, TeacherView(LSTM, hidden=False), "ensemble"),
        ("pkd-last", ModelConfig("lstm", 100, 8, 8, 1), TeacherView(LSTM), "layers"),
        ("minilm", SMALL_TRANSFORMER, TeacherView(TRANSFORMER, own=False), "one own Transformer"),
        ("distilbert", SMALL_LSTM, TeacherView(SMALL_LSTM, own=False), "own kinds in memory"),
        ("bilstm", SMALL_LSTM, TeacherView(TRANSFORMER, ("transformer", "lstm")), "not a lstm"),
        ("mobilebert", SMALL_TRANSFORMER, TeacherView(TRANSFORMER), "layers=4"),
        ("distilbert", SMALL_TRANSFORMER, TeacherView(TRANSFORMER), "embedding=32"),
        ("logit-mse", SMALL_LSTM, TeacherView(LSTM, dense=False, writes=False), "whole distribution"),
        ("on-policy", SMALL_LSTM, TeacherView(LSTM, dense=False, writes=False), "own text"),
    ],
)
def test_what_cannot_apply_is_refused_and_what_can_is_named(name, student, teacher, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        check_recipe(RECIPES[name], student, teacher)
    able = str(caught.value).split("Recipes that can: ")[1].split(", ")
    assert "no-teacher" in able
    for other in able:
        check_recipe(RECIPES[other], student, teacher)


@pytest.mark.parametrize("name", ["tinybert", "minilm", "pkd-skip", "on-policy", "sequence-level"])
def test_what_can_apply_is_let_through(name):
    check_recipe(RECIPES[name], SMALL_TRANSFORMER, TeacherView(TRANSFORMER))


def test_copied_layers_need_equal_widths():
    check_recipe(RECIPES["distilbert"], HALF_TRANSFORMER, TeacherView(TRANSFORMER))


def test_the_anchor_of_a_recipe_is_its_last_phase_of_predictions():
    anchor = RECIPES["tinybert"].anchor()
    assert anchor.losses() == {"soft"}
    assert RECIPES["on-policy"].anchor().phases == RECIPES["on-policy"].phases


def test_a_student_is_judged_once_it_learns_to_predict():
    assert RECIPES["tinybert"].settled_from(101) == 51
    assert RECIPES["hinton"].settled_from(100) == 0


def test_hard_targets_alone_cannot_come_from_the_student():
    with pytest.raises(ConfigError, match="own text"):
        Phase((Term("hard"),), student_text=1.0)
    with pytest.raises(ConfigError, match="twice"):
        Phase((Term("soft"), Term("soft")))
    with pytest.raises(ConfigError, match="no phase"):
        Recipe("empty", "", "", ())


def test_the_command_lists_explains_and_prints():
    run = CliRunner().invoke
    listed = run(group, ["recipes"]).output
    assert all(line in listed for line in RECIPES)
    assert max(map(len, listed.splitlines())) <= 100
    explained = run(group, ["recipes", "tinybert"]).output
    assert "phase 2, 50% of the steps" in explained
    assert run(group, ["recipes", "hinton", "--toml"]).output == to_toml(RECIPES["hinton"])
    wrong = run(group, ["recipes", "sofa"])
    assert wrong.exit_code == 1
    assert "hinton" in wrong.output
