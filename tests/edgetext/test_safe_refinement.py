"""A refinement that is killed, or driven into collapse, never costs the student anything."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support import TINY_STUDENT, TINY_TEACHER

from edgetext.adversarial.collapse import Watch
from edgetext.checkpoint import load_tensors
from edgetext.cli import group
from edgetext.training.optimizer import Lookahead, learning_rate
from edgetext.training.settings import LoopSettings, OptimizerSettings


def distill(run, corpus, *options):
    command = ["distill", "--corpus", str(corpus), "--run", str(run), "--no-frontier"]
    student = [o for o in TINY_STUDENT if o != "--refine-steps"]
    student.remove("30")
    result = CliRunner().invoke(group, [*command, *TINY_TEACHER, *student, *options])
    assert result.exit_code == 0, result.output
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def wild(tmp_path_factory, tiny_corpus):
    """A run whose refinement had more than a thousand times the usual learning rate."""
    folder = tmp_path_factory.mktemp("safe")
    toml = folder / "wild.toml"
    toml.write_text("adversarial_weight = 5.0\nlength = 10\nrollouts = 8\ndiscriminator_warmup = 0\n")
    options = ["--refine-steps", "24", "--refinement", str(toml), "--refine-rate", "0.8"]
    return folder / "run", distill(folder / "run", tiny_corpus, "--windows", "document", *options)


def weights(directory):
    return load_tensors(directory / "model.safetensors")[0]


def test_a_hundred_times_the_rate_leaves_the_parent_as_the_student(wild):
    run, result = wild
    parent, student = weights(run / "distilled"), weights(run / "student")
    assert not result["refinement"]["accepted"] or result["student"] == "refined"
    if result["student"] == "distilled":
        assert all(torch.equal(parent[name], student[name]) for name in parent)
    rows = {row["name"]: row for row in result["models"]}
    assert rows[result["student"]]["valid_perplexity"] <= rows["distilled"]["valid_perplexity"] * 1.011
    records = [json.loads(line) for line in (run / "refined" / "metrics.jsonl").read_text().splitlines()]
    assert any("rolled_back_to" in record for record in records)
    assert "refinement" in result


def test_the_refined_stage_is_never_worse_than_its_parent_by_its_own_score(wild):
    run, _ = wild
    stage = json.loads((run / "refined" / "stage.json").read_text())
    assert np.isfinite(stage["best_score"])
    assert all(torch.isfinite(tensor).all() for tensor in weights(run / "refined").values())


def test_a_watch_knows_a_collapse_and_lets_a_student_change():
    random = np.random.default_rng(0)

    def sample(words):
        return random.integers(2, words, (60, 12)).tolist()

    watch = Watch(sample(200))
    assert not watch.look(sample(200))[1]
    assert watch.look([[5, 6, 7, 8, 9, 10]] * 60)[1]
    assert watch.look(sample(5))[1]
    assert watch.look([[], []])[1]


def test_schedules_start_at_the_peak_and_end_where_they_say():
    loop = LoopSettings(steps=100, warmup_steps=10, final_rate=0.1)
    rate = {
        name: [learning_rate(step, OptimizerSettings(1.0, schedule=name), loop) for step in range(101)]
        for name in ("cosine", "exponential", "plateau", "constant")
    }
    assert all(r[0] == pytest.approx(0.1) and r[9] == pytest.approx(1.0) for r in rate.values())
    assert rate["cosine"][100] == rate["exponential"][100] == pytest.approx(0.1)
    assert rate["exponential"][55] == pytest.approx(0.1**0.5)
    assert rate["constant"][100] == 1.0
    falling = OptimizerSettings(1.0, schedule="plateau")
    assert [learning_rate(50, falling, loop, stale) for stale in range(5)] == [1, 1, 0.5, 0.5, 0.25]


def test_lookahead_goes_back_halfway_every_fifth_step():
    fast, slow = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizers = torch.optim.AdamW([fast], lr=0.1), Lookahead([slow], lr=0.1)
    for step in range(1, 6):
        for parameter, optimizer in zip((fast, slow), optimizers, strict=True):
            parameter.grad = torch.ones(1)
            optimizer.step()
        assert torch.equal(fast, slow) == (step < 5)
    assert float(slow.detach()) == pytest.approx(float(fast.detach()) / 2)
    state = optimizers[1].state_dict()["state"][0]
    assert float(state["slow"]) == float(slow.detach())
