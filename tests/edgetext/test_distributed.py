"""One training by two processes, launched as users launch it, against one process of the same batch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distributed_worker import CASES, run_case
from safetensors.torch import load_file

from edgetext.errors import ConfigError
from edgetext.training.processes import open_accelerator
from edgetext.training.settings import LoopSettings

TESTS = Path(__file__).parents[1]
COMPARED = ("plain", "accumulated", "unreached", "game", "split", "split-lstm", "split-teacher")


def launch(directory: Path, *cases: str) -> subprocess.Popen:
    """Start the worker in two processes on the CPU."""
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    return subprocess.Popen(
        [*command, "--main_process_port", "0", str(TESTS / "distributed_worker.py"), str(directory), *cases],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(TESTS)},
    )


def results(directory: Path) -> list[dict]:
    return [json.loads((directory / f"results-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Every case but the stopped ones, by two processes."""
    directory = tmp_path_factory.mktemp("together")
    process = launch(directory, *(case for case in CASES if not case.endswith("stopped")))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return directory, out


def differences(ours: Path, theirs: Path) -> float:
    one, other = load_file(ours), load_file(theirs)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("case", COMPARED)
def test_two_processes_learn_what_one_learns(together, tmp_path, case):
    directory, _ = together
    alone = run_case(case, tmp_path, processes=2)
    assert differences(directory / case / "model", tmp_path / case / "model") < 1e-6
    for mine in results(directory):
        assert mine[case] == pytest.approx(alone, rel=1e-5)
    records = [(d / case / "metrics.jsonl").read_text().splitlines() for d in (directory, tmp_path)]
    for ours, theirs in zip(*([json.loads(line) for line in lines] for lines in records), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["generator_loss"] == pytest.approx(theirs["generator_loss"], rel=1e-4)
        assert ours["generator_gradient_norm"] == pytest.approx(theirs["generator_gradient_norm"], rel=1e-3)


def test_split_models_are_held_in_halves(together):
    for mine in results(together[0]):
        assert mine["split held"]["generator"] == pytest.approx(0.5, abs=0.01)
        assert mine["split-teacher held"]["teacher"] == pytest.approx(0.5, abs=0.01)
        assert mine["plain held"]["generator"] == 1


def test_parts_differ_in_their_noise(tmp_path):
    one, two = (run_case("plain", tmp_path / str(n), processes=n) for n in (1, 2))
    assert one["best_score"] != two["best_score"]  # dropout masks are drawn part by part


def test_only_the_main_process_speaks_and_warnings_are_none_of_ours(together):
    _, out = together
    assert out.count("reading   step 8/8") == len([c for c in CASES if CASES[c][0].name == "reading"]) - 4
    assert "Warning" not in out


def test_weights_that_drift_apart_are_noticed(together):
    for mine in results(together[0]):
        assert "hold different weights of the generator" in mine["drift"]["error"]


def test_a_loss_that_is_not_finite_stops_every_process(together):
    errors = [mine["diverging"]["error"] for mine in results(together[0])]
    assert errors[0].startswith("TrainingError: reading: the generator's loss is")
    assert errors[0] == errors[1]


def test_what_the_main_process_does_all_know_of(together):
    for mine in results(together[0]):
        assert mine["main"] == "done by 0"
        assert mine["refused"] == "ConfigError: --steps is 0; it must be at least 1"


def wait_for_step(process: subprocess.Popen, metrics: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= step):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stopping_any_process_stops_all_and_another_number_of_them_goes_on(tmp_path):
    cases = ("stopped", "split-stopped")
    process = launch(tmp_path, *cases)
    for case in cases:
        wait_for_step(process, tmp_path / case / "metrics.jsonl", 5)
        os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    for case in cases:
        first, second = (mine[case]["error"] for mine in results(tmp_path))
        assert first == second
        assert first.startswith("Interrupted: reading: stopped at step ")
        assert (tmp_path / case / "resume.safetensors").exists()
        resumed, undisturbed = (run_case(case, d, processes=2) for d in (tmp_path, tmp_path / "undisturbed"))
        lines = (tmp_path / case / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 151))
        assert resumed == pytest.approx(undisturbed, rel=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused():
    loop = LoopSettings(steps=1, batch_size=12, accumulation=2)
    assert loop.parts() == 2
    assert loop.parts(3) == 6
    with pytest.raises(ConfigError, match=r"--batch-size 12 .* 8 .4 processes .* --num_processes"):
        loop.parts(4)


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(ConfigError, match="--shard"):
        LoopSettings(steps=1, compile=True, shard=True)


def test_launches_that_cannot_work_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="--shard"):
        open_accelerator("fp32")
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    torch.zeros(1)  # this process works alone already
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were launched but 1 joined"):
        open_accelerator("fp32")


def test_a_whole_run_by_two_processes_is_that_of_one(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"the {a} cat sees {b} dogs" for a in range(30) for b in range(9)) + "\n")
    options = (
        *(
            "distill",
            "--corpus",
            str(corpus),
            "--vocab-size",
            "280",
            "--precision",
            "fp32",
            "--windows",
            "document",
        ),
        *("--teacher", "lstm,embedding=12,hidden=16,layers=1,dropout=0.2", "--recipe", "on-policy"),
        *("--student", "lstm,embedding=8,hidden=8,layers=1,tied=true", "--batch-size", "8"),
        *("--teacher-steps", "10", "--distill-steps", "10", "--refine-steps", "0", "--no-frontier"),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    commands = {
        "two": [*launcher, "-m", "edgetext", *options],
        "one": ["edgetext", *options, "--accumulation", "2"],
    }
    for name, words in commands.items():
        command = [sys.executable, "-m", *words, "--run", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    for model in ("teacher", "student"):
        file = Path(model) / "model.safetensors"
        assert differences(tmp_path / "one" / file, tmp_path / "two" / file) < 1e-5
