"""Learning resampled texts: what the loss is zero at, what it moves, and the run that does it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support import TINY_STUDENT, TINY_TEACHER

from edgetext.adversarial.refinements import REFINEMENTS
from edgetext.adversarial.residual import ResidualTask
from edgetext.adversarial.settings import RefineSettings
from edgetext.cli import group
from edgetext.distill.recipes import RECIPES
from edgetext.distill.tasks import DistillTask
from edgetext.evaluate.frontier import Referee
from edgetext.models import ModelConfig, build_model
from edgetext.training.data import DocumentSampler, document_windows
from edgetext.training.settings import OptimizerSettings

V, LENGTH, LIKED = 16, 8, 5


class Liking:
    """Stands where a trained discriminator does: its logit is that of texts it likes, or of none."""

    length = LENGTH

    def __init__(self, strength):
        self.strength = strength

    def logits(self, rows):
        return self.strength * (rows == LIKED).any(1).float()


def stream(documents=40):
    random = np.random.default_rng(0)
    return np.array(
        [*np.concatenate([[0, *random.integers(2, V, 6)] for _ in range(documents)]), 0], np.uint16
    )


def task(strength, rollouts=8):
    torch.manual_seed(0)
    model = build_model(ModelConfig("lstm", V, 8, 12, 1))
    anchor = DistillTask(
        *("anchor", model, RECIPES["no-teacher"], 4, DocumentSampler(stream(), 12, 8, 0)),
        *(document_windows(stream(8), 12, 8), OptimizerSettings(1e-2)),
    )
    small = {**REFINEMENTS["resampled"].to_dict(), "length": LENGTH, "rollouts": rollouts}
    settings = RefineSettings.from_dict(small)
    made = ResidualTask(anchor, settings, Liking(strength), Referee(stream(), stream(8), V, texts=10), seed=1)
    made.prepare(made.players, torch.device("cpu"))
    return made


def share_liked(model):
    from edgetext.adversarial.resample import draw_texts

    return float((draw_texts(model, 2000, LENGTH, 3, (1,)) == LIKED).any(1).float().mean())


def test_a_discriminator_that_knows_nothing_moves_nothing():
    still = task(0.0)
    loss, _ = still.loss(0, 0)
    loss.backward()
    assert all(float(p.grad.abs().max()) < 1e-6 for p in still.model.parameters() if p.grad is not None)


def test_the_student_learns_to_write_what_resampling_would():
    """With exp(logit) = 3 on liked texts, p goes to 3p / (3p + 1 - p); eight candidates reach most of it."""
    learning = task(float(np.log(3.0)), rollouts=16)
    before = share_liked(learning.model)
    aim = 3 * before / (3 * before + 1 - before)
    optimizer = torch.optim.Adam(learning.model.parameters(), lr=5e-3)
    first = learning.validate()["score"]
    for step in range(100):
        loss, _ = learning.loss(step, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = share_liked(learning.model)
    assert before + 0.5 * (aim - before) < after < aim + 0.05
    assert learning.validate()["score"] < first


def test_parts_of_a_step_are_different_candidates():
    whole = task(1.0)
    whole.anchor.parts = 2
    assert not torch.equal(whole.residual_loss(0, 0), whole.residual_loss(0, 1))


def run(*arguments):
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def parent(tmp_path_factory, tiny_corpus):
    """A run that only distilled."""
    directory = tmp_path_factory.mktemp("from") / "parent"
    student = [o for o in TINY_STUDENT if o != "--refine-steps"]
    student.remove("30")
    options = ["--windows", "document", "--refine-steps", "0", "--no-frontier"]
    result = run("distill", "--corpus", tiny_corpus, "--run", directory, *TINY_TEACHER, *student, *options)
    assert result.exit_code == 0, result.output
    return directory


@pytest.fixture(scope="module")
def resampled(tmp_path_factory):
    """The rules of `resampled`, for texts of ten tokens and a discriminator of 24 steps."""
    path = tmp_path_factory.mktemp("rules") / "resampled.toml"
    path.write_text(
        'gradient = "resampled"\nobjective = "non-saturating"\nlength = 10\nrollouts = 4\ncandidates = 4\n'
        "discriminator_warmup = 24\nanchor_every = 0\n"
        '[discriminator]\nkind = "cnn"\nembedding = 0\nhidden = 8\n'
    )
    return path


def test_a_run_starts_from_the_distilled_student_of_another(parent, resampled, tmp_path):
    child = tmp_path / "child"
    options = ["--from", parent, "--run", child, "--refine-steps", 16, "--refinement", resampled]
    result = run("distill", *options)
    assert result.exit_code == 0, result.output
    for name in ("teacher", "distilled"):
        assert (child / name / "model.safetensors").read_bytes() == (
            parent / name / "model.safetensors"
        ).read_bytes()
    assert json.loads((child / "config.json").read_text())["start"] == str(parent)
    assert json.loads((child / "result.json").read_text())["refinement"]["reason"]
    assert json.loads((child / "opponent" / "stage.json").read_text())["told_apart"] >= 0
    assert (child / "plots" / "losses.png").is_file()

    before = (child / "refined" / "model.safetensors").read_bytes()
    (child / "distilled" / "stage.json").unlink()  # as if it had been killed while it took over
    (child / "result.json").unlink()
    again = run("distill", "--run", child, "--resume")
    assert again.exit_code == 0, again.output
    assert (child / "refined" / "model.safetensors").read_bytes() == before

    (child / "result.json").unlink()
    parent.rename(tmp_path / "moved")  # what was taken over is enough to go on
    try:
        alone = run("distill", "--run", child, "--resume")
    finally:
        (tmp_path / "moved").rename(parent)
    assert alone.exit_code == 0, alone.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--student", "lstm,embedding=8,hidden=8,layers=1"], "--student.*leave the option out"),
        (["--seed", "7"], "--seed 0, not 7.*leave the option out"),
    ],
)
def test_another_student_than_the_parents_is_refused(parent, tmp_path, options, says):
    result = run("distill", "--from", parent, "--run", tmp_path / "child", "--refine-steps", 4, *options)
    assert result.exit_code != 0
    assert re.search(says, result.output.replace("\n", " "))
    assert not (tmp_path / "child").exists()


def test_what_is_no_parent_is_refused(parent, tmp_path):
    assert "--run" in run("distill", "--from", parent).output
    (tmp_path / "empty").mkdir()
    assert "config.json" in run("distill", "--from", tmp_path / "empty", "--run", tmp_path / "child").output
    assert "would delete" in run("distill", "--from", parent, "--run", parent, "--force").output
    assert (parent / "distilled" / "model.safetensors").is_file()


def test_an_exact_training_is_in_float32_where_its_run_is_not():
    """A process of its own, because accelerate's precision is the process's."""
    code = """
import torch
from edgetext.training.processes import arithmetic, open_accelerator
accelerator = open_accelerator("bf16")
for exact in (True, False):
    with arithmetic(accelerator, exact=exact):
        layer = accelerator.prepare(torch.nn.Linear(64, 1, bias=False))
    layer.weight.data.fill_(1 / 3)
    out = float(layer(torch.full((1, 64), 1 / 3)).detach())
    print(abs(out - 64 / 9) < 1e-5)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]
