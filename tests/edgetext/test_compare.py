"""Runs side by side: grouping over seeds, the baseline, refusals, the tables."""

import json
import math
import statistics

import pytest
from click.testing import CliRunner
from compared_runs import write_compared_run

from edgetext.cli.compare import command
from edgetext.errors import CheckpointError, ConfigError
from edgetext.evaluate.compare import compare_runs
from edgetext.evaluate.compare_report import markdown_page, notes, plot_comparison, terminal_table
from edgetext.evaluate.run_figures import comparable_sets, read_runs

BASELINE = {0: 25.0, 1: 25.4, 2: 24.9}
DISTILLED = {0: 20.0, 1: 20.3, 2: 19.9}


@pytest.fixture
def runs(tmp_path):
    """A baseline and a recipe with three seeds each."""
    paths = [
        write_compared_run(tmp_path / f"none-{seed}", "no-teacher", seed=seed, perplexity=value, teacher=None)
        for seed, value in BASELINE.items()
    ]
    paths += [
        write_compared_run(tmp_path / f"hinton-{seed}", seed=seed, perplexity=value)
        for seed, value in DISTILLED.items()
    ]
    return paths


def test_seeds_are_one_row_with_mean_and_deviation(runs):
    best, baseline = compare_runs(runs)
    assert (best.label, baseline.label) == ("hinton", "no-teacher")
    assert [run.seed for run in best.runs] == [0, 1, 2]
    spread = best.spread("perplexity")
    assert spread.mean == pytest.approx(statistics.fmean(DISTILLED.values()))
    assert spread.deviation == pytest.approx(statistics.stdev(DISTILLED.values()))
    assert best.spread("agreement").values == (0.9, 0.91, 0.92)
    assert baseline.spread("agreement") is None


def test_gain_is_against_the_baseline(runs):
    best, baseline = compare_runs(runs)
    assert baseline.is_baseline
    assert baseline.gain is None
    means = [statistics.fmean(values.values()) for values in (DISTILLED, BASELINE)]
    assert best.gain.perplexity == pytest.approx(1 - means[0] / means[1])
    losses = [statistics.fmean(map(math.log, values.values())) for values in (DISTILLED, BASELINE)]
    assert best.gain.nats == pytest.approx(losses[1] - losses[0])
    variances = [statistics.variance(values.values()) for values in (DISTILLED, BASELINE)]
    assert best.gain.deviations == pytest.approx((means[1] - means[0]) / math.sqrt(sum(variances)))


def test_the_baseline_is_one_of_the_same_shape_and_the_best_of_those(tmp_path):
    bare = {"recipe": "no-teacher", "teacher": None}
    paths = [
        write_compared_run(tmp_path / "plain", **bare, perplexity=25.0),
        write_compared_run(tmp_path / "tuned", **bare, perplexity=24.0, options={"student_rate": 0.004}),
        write_compared_run(tmp_path / "big", **bare, perplexity=15.0, shape={"hidden": 64}),
        write_compared_run(tmp_path / "hinton", perplexity=20.0, shape={"dropout": 0.1}),
        write_compared_run(tmp_path / "small", perplexity=30.0, shape={"hidden": 8}),
    ]
    groups = {group.runs[0].directory.rpartition("/")[2]: group for group in compare_runs(paths)}
    assert groups["hinton"].gain.perplexity == pytest.approx(1 - 20 / 24)  # another dropout is no other shape
    assert groups["plain"].gain.perplexity == pytest.approx(1 - 25 / 24)
    assert [name for name, group in groups.items() if group.is_baseline] == ["big", "tuned"]
    assert groups["small"].gain is None
    assert any("no baseline of the same student shape: hinton 2" in n for n in notes(compare_runs(paths)))


def test_groups_of_one_recipe_say_what_differs(tmp_path):
    def recipe(temperature):
        term = {"loss": "soft", "weight": 0.9, "temperature": temperature}
        return {"name": "hinton", "summary": "words", "phases": [{"share": 1.0, "terms": [term]}]}

    options = [{"teacher": ["runs/a", "runs/b"]}, {"teacher": ["runs/a"]}]
    paths = [
        write_compared_run(tmp_path / "warm", recipe(2.0), perplexity=21, options=options[0]),
        write_compared_run(tmp_path / "cool", recipe(1.0), perplexity=20, options=options[1]),
    ]
    cool, warm = compare_runs(paths)
    assert (cool.label, warm.label) == ("hinton 1", "hinton 2")
    assert set(cool.differs) == {"teacher", "recipe.phases.0.terms.soft.temperature"}
    text = terminal_table([cool, warm])
    assert "hinton 1: teacher a, soft.temperature 1.0" in text
    assert "hinton 2: teacher a + b, soft.temperature 2.0" in text


def test_settings_of_a_stage_that_took_no_steps_tell_nothing_apart(tmp_path):
    """Nor do those that an earlier version did not know yet."""
    idle = [{"refine_steps": 0, "refine_rate": 1e-3, "refine": {"name": "relgan"}}, {}]
    paths = [write_compared_run(tmp_path / f"{n}", seed=n, options=o) for n, o in enumerate(idle)]
    (group,) = compare_runs(paths)
    assert (len(group.runs), group.differs) == (2, {})
    refined = {"refine_steps": 5, "refine": {"name": "relgan"}}
    paths.append(write_compared_run(tmp_path / "refined", seed=0, options=refined))
    assert len(compare_runs(paths)) == 2


def test_each_seed_may_have_a_teacher_of_its_own(tmp_path):
    paths = [
        write_compared_run(
            tmp_path / f"{seed}", seed=seed, options={"teacher": [f"runs/t-seed{seed}", "runs/u"]}
        )
        for seed in (1, 12)
    ]
    (group,) = compare_runs(paths)
    assert [run.seed for run in group.runs] == [1, 12]
    paths.append(write_compared_run(tmp_path / "2", seed=2, options={"teacher": ["runs/t-seed12", "runs/u"]}))
    assert len(compare_runs(paths)) == 2


def test_one_sample_is_not_counted_twice(runs, tmp_path):
    (group,) = compare_runs([runs[0], runs[1] / ".." / runs[0].name])
    assert len(group.runs) == 1
    again = write_compared_run(tmp_path / "again", seed=2, perplexity=19.9)
    with pytest.raises(ConfigError, match=r"hinton-2 and .*again have the same settings"):
        compare_runs([*runs, again])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": {"sha256": "c" * 64}}, "the text"),
        ({"corpus": {"tokenizer": {"kind": "word", "sha256": "d" * 64}}}, "word sha256 dddddddddddd"),
        (
            {"corpus": {"config": {"valid_fraction": 0.05, "test_fraction": 0.1, "split_seed": 0}}},
            "valid 0.05, test 0.1,",
        ),
        ({"tokens": 300}, "test tokens .*300.*--tokens N"),
    ],
)
def test_what_is_not_comparable_is_refused_by_name(runs, tmp_path, changes, words):
    other = write_compared_run(tmp_path / "other", **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        compare_runs([*runs, other])
    assert str(other) in str(caught.value)
    assert str(runs[0]) not in str(caught.value)
    sets = comparable_sets(read_runs([*runs, other]))
    assert [len(part) for part in sets] == [6, 1]


def test_what_is_missing_is_asked_for_all_at_once(runs, tmp_path):
    (runs[0] / "student-int8.etx").unlink()
    (runs[1] / "result.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        compare_runs([*runs, tmp_path / "nowhere"])
    for words in (
        f"edgetext export {runs[0]} --int8",
        f"edgetext distill --run {runs[1]} --resume",
        "nowhere is not a run",
    ):
        assert words in str(caught.value)


def test_a_bundle_of_another_student_is_noticed(runs):
    result = json.loads((runs[0] / "result.json").read_text())
    result["models"][0]["parameters"] = 2000
    (runs[0] / "result.json").write_text(json.dumps(result))
    with pytest.raises(CheckpointError, match="export it again"):
        compare_runs(runs)


def test_a_record_that_is_not_understood_is_named(runs):
    (runs[0] / "result.json").write_text('{"models": []}')
    with pytest.raises(CheckpointError, match="none-0"):
        compare_runs(runs)


def test_the_terminal_table_fits_a_hundred_columns(tmp_path):
    paths = []
    for seed in (0, 1):
        for number, recipe in enumerate(["sequence-level", "a-recipe-of-ones-own", "no-teacher"]):
            options = [{}] if recipe != "no-teacher" else [{"student_rate": r} for r in (1e-2, 1e-3)]
            for option in options:
                path = tmp_path / f"{recipe}-{seed}-{len(paths)}"
                paths.append(
                    write_compared_run(
                        path,
                        recipe,
                        seed=seed,
                        perplexity=951.5 - 7 * len(paths) + number,
                        options=option,
                        parameters=17_320_448,
                    )
                )
                result = json.loads((path / "result.json").read_text())
                result["models"][1].update(seconds=12345.6, agreement=1.0)
                (path / "result.json").write_text(json.dumps(result))
    groups = compare_runs(paths)
    text = terminal_table(groups)
    assert "no-teacher 1 *" in text
    assert "17.32M" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_page_holds_every_figure_and_the_command(runs):
    page = markdown_page(compare_runs(runs), "edgetext compare a b")
    assert "edgetext compare a b" in page
    row = next(line for line in page.splitlines() if line.startswith("| hinton"))
    for cell in ("20.07 ± 0.21", "0, 1, 2", "1,000", "+0.10%", "+20.1%", "+0.224", "91.0% ± 1.0%", "19.00"):
        assert cell in row
    assert "| no-teacher *" in page
    assert "teachers were measured on 799 test tokens, the bundles on 700" in page


def test_the_command_writes_table_plot_and_json(runs, tmp_path):
    page, plot = tmp_path / "table.md", tmp_path / "plot.png"
    arguments = [*map(str, runs), "-o", str(page), "--plot", str(plot), "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "hinton" in result.output
    answer = json.loads(result.output.splitlines()[-1])
    best = answer["groups"][0]
    assert best["seeds"] == [0, 1, 2]
    assert best["perplexity"]["values"] == [20.0, 20.3, 19.9]
    assert best["gain"]["perplexity"] == pytest.approx(1 - 60.2 / 75.3)
    assert page.read_text().startswith("# Comparison on animals.txt")
    assert plot.read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(command, arguments)
    assert isinstance(again.exception, ConfigError)
    assert "--force" in str(again.exception)
    assert CliRunner().invoke(command, [*arguments, "--force"]).exit_code == 0


def test_runs_alone_are_compared_with_a_word_about_the_baseline(tmp_path):
    path = write_compared_run(tmp_path / "one", tokens=799)
    result = CliRunner().invoke(command, [str(path)])
    assert result.exit_code == 0
    assert "--recipe no-teacher" in result.output
    assert "one seed only" in result.output


def test_a_plot_of_one_run_without_a_teacher(tmp_path):
    path = write_compared_run(tmp_path / "one", "no-teacher", teacher=None)
    plot_comparison(compare_runs([path]), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
