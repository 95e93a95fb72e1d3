"""A sweep as a user runs it: stopped, killed, continued, with a run that fails, up to its table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgetext.cli.sweep import command
from edgetext.errors import ConfigError
from edgetext.sweep.plan import Job, Step
from edgetext.sweep.process import release, try_lock
from edgetext.sweep.runner import run_sweep

STEPS = 160
"""Enough that a signal meets a run at work."""
BASE = """
[base]
corpus = "{corpus}"
tokenizer = "char"
recipe = "no-teacher"
student = "lstm,embedding=12,hidden=12,layers=1,tied=true"
distill-steps = {steps}
batch-size = 4
sequence-length = 32
refine-steps = 0
frontier = false
precision = "fp32"
checkpoint-every = 5
tokens = 200
"""
RUNS = """
[[runs]]
name = "plain"
seeds = [0, 1]
[[runs]]
name = "broken"
valid-fraction = 0.9999
[[runs]]
name = "after"
teacher = "{out}/broken"
recipe = "hinton"
"""


def write_plan(path: Path, corpus: Path, steps: int, runs: str = RUNS) -> Path:
    path.write_text(BASE.format(corpus=corpus, steps=steps) + runs)
    return path


def start(plan: Path, out: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "edgetext", "sweep", str(plan), "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, process: subprocess.Popen, lines: int = 1) -> None:
    deadline = time.monotonic() + 200
    while not (path.exists() and path.read_text().count("\n") >= lines):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sweep_goes_on_after_everything(tiny_corpus, tmp_path):
    plan, out = write_plan(tmp_path / "plan.toml", tiny_corpus, steps=STEPS), tmp_path / "out"
    process = start(plan, out)
    wait_for(out / "plain-seed0" / "distilled" / "metrics.jsonl", process, lines=7)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert f"go on with: edgetext sweep {plan} --out {out}" in err
    assert (out / "plain-seed0" / "distilled" / "resume.safetensors").exists()
    assert not (out / "plain-seed0" / "result.json").exists()

    process = start(plan, out)
    wait_for(out / "plain-seed1" / "distilled" / "metrics.jsonl", process, lines=2)
    process.kill()  # the run it had started goes on: the next sweep must wait for it
    process.communicate()
    process = start(plan, out, "--json")
    printed, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert "finished before: 1 of 4" in err
    result = json.loads(printed.splitlines()[-1])
    assert result["finished"] == ["plain-seed0", "plain-seed1"]
    assert result["failed"] == ["broken"]
    assert result["blocked"] == ["after"]
    assert result["tables"][0][0]["seeds"] == [0, 1]
    assert "broken: failed with exit code 1 (Error: " in err
    assert "failed: broken; try again" in err
    assert "no-teacher" in (out / "compare.md").read_text()
    log = (out / "logs" / "plain-seed0.log").read_text()
    assert log.count("$ -m edgetext distill") == 2
    assert log.count("$ -m edgetext export") == 1
    steps = (out / "plain-seed1" / "distilled" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == list(range(1, STEPS + 1))


def record(out: Path, name: str, options: dict, done: int) -> None:
    """A run as a sweep leaves it: its product, and what is known of it."""
    for path, content in ((out / name / "result.json", {}), (out / ".sweep" / f"{name}.json", None)):
        path.parent.mkdir(parents=True, exist_ok=True)
        past = {"options": options, "done": [options, {"tokens": 200}][:done]}
        path.write_text(json.dumps(past if content is None else content))
    (out / name / "student-int8.etx").write_bytes(b"")


OPTIONS = {
    **{"tokenizer": "char", "recipe": "no-teacher", "distill-steps": 9},
    **{"student": "lstm,embedding=12,hidden=12,layers=1,tied=true", "batch-size": 4, "sequence-length": 32},
    **{"refine-steps": 0, "frontier": False, "precision": "fp32", "seed": 0},
}


def test_a_dry_run_prints_what_is_left(tmp_path):
    runs = '[[runs]]\nname = "a"\nseed = 0\n[[runs]]\nname = "b"\nseed = 0\n'
    plan, out = write_plan(tmp_path / "plan.toml", Path("c.txt"), 9, runs), tmp_path / "out"
    record(out, "a", {"corpus": "c.txt", **OPTIONS}, done=2)
    record(out, "b", {"corpus": "c.txt", **OPTIONS}, done=1)
    result = CliRunner().invoke(command, [str(plan), "--out", str(out), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "# a: finished",
        "# b",
        f"edgetext export {out}/b --tokens 200 --int8 --force",
    ]
    (out / "b" / "result.json").unlink()
    result = CliRunner().invoke(command, [str(plan), "--out", str(out), "--dry-run", "--only", "b"])
    lines = result.output.splitlines()
    assert lines[0] == "# b"
    assert lines[1].startswith("edgetext distill --corpus c.txt --tokenizer char")
    assert lines[1].endswith(f"--checkpoint-every 5 --seed 0 --run {out}/b --resume")
    assert len(lines) == 3


def test_a_run_begun_with_other_options_is_refused_before_anything_starts(tmp_path):
    runs = '[[runs]]\nname = "a"\nseed = 0\n[[runs]]\nname = "b"\nseed = 0\n'
    plan, out = write_plan(tmp_path / "plan.toml", Path("c.txt"), 9, runs), tmp_path / "out"
    record(out, "b", {"corpus": "c.txt", **OPTIONS, "batch-size": 8}, done=1)
    result = CliRunner().invoke(command, [str(plan), "--out", str(out)])
    assert isinstance(result.exception, ConfigError)
    assert "b was begun with batch-size = 8, the plan now says 4 (entry 'b')" in str(result.exception)
    assert not (out / "a").exists()


def test_a_value_that_an_option_does_not_take_names_its_entry(tmp_path):
    runs = '[[runs]]\nname = "a"\ntokenizer = "wrod"\n'
    plan = write_plan(tmp_path / "plan.toml", Path("c.txt"), 9, runs)
    result = CliRunner().invoke(command, [str(plan), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError)
    assert "entry 'a'" in str(result.exception)
    assert "--tokenizer" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_lock_is_held_by_one(tmp_path):
    free, lock = try_lock(tmp_path / "a.lock")
    assert free
    assert try_lock(tmp_path / "a.lock") == (False, None)
    release(lock)
    free, lock = try_lock(tmp_path / "a.lock")
    assert free
    release(lock)


def test_what_another_process_works_on_is_waited_for(tmp_path):
    job = Job("a", "a", (Step("distill", {}, ("distill", "--corpus", "nowhere.txt", "--run", "{out}/a")),))
    _, lock = try_lock(tmp_path / ".sweep" / "a.lock")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "another process" in line:
            release(lock)

    run_sweep([job], tmp_path, say=say)
    assert said[0].startswith("a: another process is at it")
    assert said[1].startswith("[1/1] a: distill")


def test_jobs_side_by_side_wait_for_what_they_need(tmp_path):
    """Commands that fail at once: what is started when, and that all of them are heard of."""
    missing = Step("distill", {}, ("distill", "--corpus", "nowhere.txt", "--run", "{out}/x"))
    jobs = [Job("a", "a", (missing,)), Job("b", "b", (missing,), ("a",)), Job("c", "c", (missing,))]
    said: list[str] = []
    result = run_sweep(jobs, tmp_path, slots=2, say=said.append)
    assert sorted(result.failed) == ["a", "c"]
    assert result.blocked == ("b",)
    assert "nowhere.txt" in next(line for line in said if line.startswith("a: failed"))
    first_end = next(i for i, line in enumerate(said) if "failed" in line)
    assert [line.split()[1] for line in said[:first_end]] == ["a:", "c:"]  # both at work before one ended


@pytest.mark.parametrize("slots", [0, -1])
def test_no_jobs_at_a_time_is_refused(tmp_path, slots):
    result = CliRunner().invoke(command, ["p.toml", "--out", str(tmp_path), "--jobs", str(slots)])
    assert result.exit_code == 2
    assert "--jobs" in result.output
