"""The main job as a user runs it: in processes of its own, killed, resumed, refused, repeated."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import TINY_STUDENT, TINY_TEACHER

MODELS = ("teacher", "distilled", "refined", "student")


def start(corpus: Path, run: Path, *options: str, trained_teacher: Path | None = None) -> subprocess.Popen:
    teacher = TINY_TEACHER if trained_teacher is None else ["--teacher", str(trained_teacher)]
    if "--teacher" in options:
        teacher = teacher[2:]
    command = [sys.executable, "-m", "edgetext", "distill", "--corpus", str(corpus), "--run", str(run)]
    return subprocess.Popen(
        [*command, *teacher, *TINY_STUDENT, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_step(process: subprocess.Popen, stage: Path, step: int) -> None:
    """Wait until a running stage has recorded a step."""
    deadline = time.monotonic() + 240
    path = stage / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= step):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def weights(run: Path) -> dict[str, bytes]:
    return {name: (run / name / "model.safetensors").read_bytes() for name in MODELS}


@pytest.fixture(scope="module")
def finished(tiny_corpus, tmp_path_factory):
    """A run that nobody disturbed, with what it printed."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    code, out, err = finish(start(tiny_corpus, run, "--json"))
    assert code == 0, err
    return run, out, err


def test_a_run_leaves_everything_it_promises(finished):
    run, out, err = finished
    result = json.loads((run / "result.json").read_text())
    assert [row["name"] for row in result["models"]] == ["teacher", "distilled", "refined"]
    assert result["student"] in ("distilled", "refined")
    accepted = weights(run)
    assert accepted["student"] == accepted[result["student"]]
    assert (result["student"] == "refined") == result["refinement"]["accepted"]
    report = (run / "report.md").read_text()
    for plot in ("losses", "frontier"):
        assert f"plots/{plot}.png" in report
        assert (run / "plots" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    assert result["refinement"]["reason"] in report
    assert "| teacher" in out
    assert out.count("--- sample") == 3
    assert json.loads(out.splitlines()[-1])["student"] == result["student"]
    assert "teacher   step 40/40" in err
    assert not list(run.rglob("resume.safetensors"))


def test_training_teaches(finished):
    run, *_ = finished
    for stage in ("teacher", "distilled"):
        records = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == list(range(1, 41))
        scores = [record["validation"]["score"] for record in records if "validation" in record]
        assert min(scores) < scores[0] - 0.3


def test_the_refinement_plays_the_game(finished):
    run, *_ = finished
    records = [json.loads(line) for line in (run / "refined" / "metrics.jsonl").read_text().splitlines()]
    played = ["adversarial" in record for record in records]
    assert played == [False] * 6 + [True] * 24  # the first fifth warms the discriminator up
    assert all("anchor" in record for record in records)


@pytest.mark.parametrize("stage", ["teacher", "distilled", "refined"])
def test_a_killed_run_resumes_to_the_same_bits(finished, tiny_corpus, tmp_path, stage):
    reference, *_ = finished
    run = tmp_path / "killed"
    process = start(tiny_corpus, run)
    wait_for_step(process, run / stage, 17)  # past validations, the best weights and adversarial steps
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / stage / "stage.json").exists(), "the stage was over before the kill"
    code, _, err = finish(start(tiny_corpus, run, "--resume"))
    assert code == 0, err
    assert weights(run) == weights(reference)
    for name in ("teacher", "distilled", "refined"):
        steps = [json.loads(line)["step"] for line in (run / name / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))


def test_interrupting_leaves_a_run_that_resumes(finished, tiny_corpus, tmp_path):
    reference, *_ = finished
    run = tmp_path / "interrupted"
    process = start(tiny_corpus, run)
    wait_for_step(process, run / "distilled", 2)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "--resume" in err
    assert (run / "distilled" / "resume.safetensors").exists()
    command = [sys.executable, "-m", "edgetext", "distill", "--run", str(run), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # as it was started
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(reference)


def test_an_existing_run_is_refused_kept_or_replaced(finished, tiny_corpus):
    run, *_ = finished
    before = weights(run)
    code, _, err = finish(start(tiny_corpus, run))
    assert code == 1
    assert "--resume" in err
    assert "--force" in err
    code, _, err = finish(start(tiny_corpus, run, "--resume"))
    assert code == 0
    assert "done before" in err
    assert weights(run) == before
    code, _, err = finish(start(tiny_corpus, run, "--resume", "--seed", "1"))
    assert code == 1
    assert "seed" in err
    assert weights(run) == before


def test_a_trained_teacher_is_taken_with_its_tokenizer(finished, tiny_corpus, tmp_path):
    reference, *_ = finished
    run = tmp_path / "second"
    student = "transformer,hidden=16,layers=1,heads=2,kv_heads=1,ffn=24,context=128,tied=true"
    options = ("--student", student, "--refine-steps", "0")
    code, _, err = finish(start(tiny_corpus, run, *options, trained_teacher=reference))
    assert code == 0, err
    assert (run / "tokenizer.json").read_bytes() == (reference / "tokenizer.json").read_bytes()
    assert weights_of(run, "teacher") == weights_of(reference, "teacher")
    rows = {row["name"]: row for row in json.loads((run / "result.json").read_text())["models"]}
    assert rows["distilled"]["kind"] == "transformer"
    assert rows["distilled"]["test_perplexity"] < 150


def weights_of(run: Path, name: str) -> bytes:
    return (run / name / "model.safetensors").read_bytes()


def test_splitting_a_batch_changes_nothing_but_rounding(tiny_corpus, tmp_path):
    run = tmp_path / "accumulated"
    options = ("--accumulation", "4", "--teacher", "lstm,embedding=24,hidden=32,layers=1,dropout=0.0")
    plain = tmp_path / "plain"
    for directory, extra in ((run, options), (plain, options[2:])):
        code, _, err = finish(start(tiny_corpus, directory, *extra, "--refine-steps", "0"))
        assert code == 0, err
    figures = [
        [row["test_perplexity"] for row in json.loads((d / "result.json").read_text())["models"]]
        for d in (run, plain)
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--student", "lstm-studnet"], "lstm-studnet"),
        (["--soft-weight", "1.5"], "--soft-weight"),
        (["--temperature", "0"], "--temperature"),
        (["--batch-size", "6", "--accumulation", "4"], "accumulation"),
        (["--sequence-length", "16"], "--sequence-length"),
        (["--teacher", "tests"], "--teacher-steps has no effect"),
        (["--finetune-steps", "5"], "--finetune-steps has no effect"),
        (["--recipe", "sofa"], "'sofa' is unknown"),
        (["--recipe", "tinybert"], "student is a transformer"),
        (["--recipe", "no-teacher"], "--refine-steps 0"),
        (["--refinement", "sofa"], "no refinement 'sofa'"),
        (["--refinement", "soft", "--teacher", "none", "--cache", "nowhere"], "the teacher itself"),
        (["--teacher", "none"], "needs a teacher"),
        (["--cache", "nowhere"], "--teacher or --cache, not both"),
        (["--valid-corpus", "-"], "--valid-corpus"),
        (["--budget-mb", "2"], "give either"),
        (["--student", "transformer-student,context=64"], "context=128"),
        (["--student", "lstm-student,heads=4"], "belong to a transformer"),
        (["--seed", "-1"], "--seed"),
        (["--patience", "-1"], "--patience"),
        (["--teacher-rate", "nan"], "learning rate"),
        (["--vocab-size", "0"], "--vocab-size"),
        (["--resume", "--force"], "one of them"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
        (["--corpus", ""], "--corpus is empty"),
        (["--column", "text"], "--column"),
        (["--distill-steps", "0"], "--distill-steps"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tiny_corpus, tmp_path, options, words):
    code, _, err = finish(start(tiny_corpus, tmp_path / "run", *options))
    assert code == 1
    assert err.splitlines()[-1].startswith("Error: ")
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_leaves_the_numbers_stops_the_run(tiny_corpus, tmp_path):
    code, _, err = finish(start(tiny_corpus, tmp_path / "run", "--teacher-rate", "1e30"))
    assert code == 1
    assert re.search(r"loss is (nan|-?inf) at step \d+", err)
    assert "--teacher-rate" in err
    assert not (tmp_path / "run" / "distilled").exists()


def test_force_deletes_runs_only(tiny_corpus, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "llama"}')
    (foreign / "weights.bin").write_bytes(b"precious")
    code, _, err = finish(start(tiny_corpus, foreign, "--force"))
    assert code == 1
    assert "not a run of edgetext" in err
    assert (foreign / "weights.bin").read_bytes() == b"precious"


def test_force_does_not_delete_its_own_teacher(finished, tiny_corpus):
    run, *_ = finished
    code, _, err = finish(start(tiny_corpus, run, "--force", trained_teacher=run))
    assert code == 1
    assert "--force would delete" in err
    assert (run / "student" / "model.safetensors").exists()


def test_a_run_killed_while_it_reads_the_corpus_can_go_on(tiny_corpus, tmp_path):
    run = tmp_path / "early"
    process = start(tiny_corpus, run)
    deadline = time.monotonic() + 60
    while not run.exists() or not any(run.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, _, err = finish(start(tiny_corpus, run, "--resume"))
    assert code == 0, err


def test_checkpoints_may_be_written_at_another_pace_after_resuming(finished, tiny_corpus):
    run, *_ = finished
    code, _, err = finish(start(tiny_corpus, run, "--resume", "--checkpoint-every", "50"))
    assert code == 0, err


def test_a_folder_without_a_model_is_no_teacher(tiny_corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    process = start(tiny_corpus, tmp_path / "run", trained_teacher=tmp_path / "empty")
    code, _, err = finish(process)
    assert code == 1
    assert "holds no model" in err


def test_a_corpus_that_cannot_be_read_leaves_no_run_behind(tmp_path):
    (tmp_path / "latin.txt").write_bytes("caf\u00e9\n".encode("latin-1") * 300)
    code, _, err = finish(start(tmp_path / "latin.txt", tmp_path / "run"))
    assert code == 1
    assert "iconv" in err
    assert not (tmp_path / "run").exists()
