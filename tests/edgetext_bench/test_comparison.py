"""Two records: equal, slower, faster, unclear, and what is not compared at all."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from edgetext.cli import group
from edgetext_bench import Record
from edgetext_bench.comparison import compare_bundles, compare_records, comparison_text, differences
from edgetext_runtime.errors import InputError

ROUNDS = 8


def steady(record: Record, factor: float = 1.0, drift: float = 1.0, spread: float = 0.01) -> Record:
    """The record with known steps: ``factor`` slower on a machine that is ``drift`` slower as a whole."""

    def rounds(run):
        one = run.rounds[0]
        for number in range(ROUNDS):
            luck = 1 + spread * (number % 3 - 1)
            step = tuple(round(50_000 * factor * drift * luck + i) for i in range(50))
            yield replace(one, step_ns=step, stream_ns=step, pace_ns=(round(400_000 * drift),) * 9)

    return replace(record, runs=tuple(replace(run, rounds=tuple(rounds(run))) for run in record.runs))


def verdicts(before, after):
    return [one.verdict for one in compare_records(before, after)]


def test_the_same_again_is_equal(record):
    assert verdicts(steady(record), steady(record, factor=1.02)) == ["equal", "equal"]


def test_a_slowdown_of_a_tenth_is_called_one(record):
    assert verdicts(steady(record), steady(record, factor=1.1)) == ["slower", "slower"]
    assert verdicts(steady(record, factor=1.1), steady(record)) == ["faster", "faster"]


def test_a_machine_that_has_become_slower_is_no_change(record):
    (one, _) = compare_records(steady(record), steady(record, drift=1.3))
    assert one.verdict == "equal"
    assert one.changes[0].after == pytest.approx(1.3 * one.changes[0].before, rel=0.02)


def test_more_noise_than_change_is_unclear(record):
    noisy = steady(record, factor=1.08, spread=0.3)
    assert verdicts(steady(record, spread=0.3), noisy) == ["unclear", "unclear"]


def test_other_machines_and_other_ways_are_refused(record):
    other = replace(record, environment=replace(record.environment, cpu="another"))
    with pytest.raises(InputError, match=r"different machines .*another"):
        compare_records(record, other)
    with pytest.raises(InputError, match="limited"):
        compare_records(record, replace(record, label="limited", on="limited:cores=1"))
    with pytest.raises(InputError, match="--threads"):
        compare_records(record, replace(record, runs=()))


def test_bundles_of_one_record_are_compared_round_by_round(record):
    slow, _ = steady(record).runs
    (one,) = compare_bundles(replace(record, runs=(slow, steady(record, factor=0.5).runs[1])))
    assert (one.verdict, one.changes[0].ratio.value) == ("faster", pytest.approx(0.5, rel=0.01))
    text = comparison_text([one], ["top_k: 40 and 20"])
    assert "**faster**: fp32.etx → int8.etx, 1 thread: -50.0%" in text
    assert "Also different: top_k: 40 and 20" in text


def test_what_else_differs_is_said(record):
    settings = replace(record.settings, top_k=7)
    bundles = (replace(record.bundles[0], sha256="0" * 64), record.bundles[1])
    said = differences(record, replace(record, settings=settings, bundles=bundles))
    assert len(said) == 2
    assert said[0].startswith("bundle: fp32.etx")
    assert said[1] == "top_k: 40 and 7"


def test_the_command_takes_records(record, tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, factor in zip(paths, (1.0, 1.1), strict=True):
        path.write_text(steady(record, factor=factor).to_json())

    def run(*words):
        return CliRunner().invoke(group, ["bench", "compare", *map(str, words)])

    result = run(*paths, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["comparisons"][0]["verdict"] == "slower"
    assert "two records (.json) or two bundles" in run(paths[0], tmp_path / "x.etx").stderr
    paths[1].write_text("{}")
    assert "b.json: not a bench record" in run(*paths).stderr
    assert "cannot read" in run(paths[0], tmp_path / "none.json").stderr


def test_the_command_measures_bundles(bundles):
    words = ["bench", "compare", *map(str, bundles), "--repeats", "2", "--tokens", "50"]
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0, result.output
    assert "fp32.etx → int8.etx × 1" in result.stdout
