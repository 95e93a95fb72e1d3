"""Every recipe trains: losses go down, gradients reach every weight, text comes from where it should."""

import numpy as np
import pytest
import torch

from edgetext.distill.objective import Learner, Objective
from edgetext.distill.recipe import Phase, Recipe, Term
from edgetext.distill.recipes import RECIPES
from edgetext.distill.targets import LiveTargets, TeacherOutput
from edgetext.distill.tasks import DistillTask, continued
from edgetext.models import ModelConfig, build_model
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.data import Batch, DocumentSampler, WindowSampler, consecutive_windows
from edgetext.training.loop import train
from edgetext.training.processes import open_accelerator
from edgetext.training.settings import LoopSettings, OptimizerSettings

V = 40
STREAM = (
    np.random.default_rng(0).choice(V, 3000, p=np.r_[0.1, 0, np.full(V - 2, 0.9 / (V - 2))]).astype(np.uint16)
)
TEACHERS = {
    "lstm": ModelConfig("lstm", V, 12, 16, 2),
    "transformer": ModelConfig(
        "transformer", V, 16, 16, 4, heads=4, kv_heads=2, ffn=24, context=64, tied=True
    ),
}
STUDENTS = {
    "lstm": ModelConfig("lstm", V, 8, 12, 2, tied=True),
    "gru": ModelConfig("gru", V, 8, 12, 2, tied=True),
    "transformer": ModelConfig("transformer", V, 8, 8, 2, heads=4, kv_heads=4, ffn=16, context=64, tied=True),
}
SPECIAL = {
    "distilbert": ModelConfig(
        "transformer", V, 16, 16, 2, heads=4, kv_heads=2, ffn=24, context=64, tied=True
    ),
    "mobilebert": ModelConfig(
        "transformer", V, 16, 16, 4, heads=4, kv_heads=4, ffn=16, context=64, tied=True, bottleneck=8
    ),
}


def make_task(
    recipe: Recipe, student: ModelConfig, teacher: ModelConfig | None, sampler=None, steps: int = 8
):
    torch.manual_seed(0)
    model = build_model(student)
    targets = None
    if teacher is not None:
        taught = build_model(teacher)
        for parameter in taught.parameters():
            parameter.data.mul_(3)  # distributions that are worth learning
        targets = LiveTargets(taught)
    return DistillTask(
        "test",
        model,
        recipe,
        steps,
        sampler or WindowSampler(STREAM, 12, 4, seed=0),
        consecutive_windows(STREAM[:200], 32, 4),
        OptimizerSettings(1e-2),
        targets=targets,
        teacher=teacher,
        written=WindowSampler(STREAM[::-1].copy(), 12, 4, seed=0),
    )


CASES = [
    (name, student, teacher)
    for name, recipe in RECIPES.items()
    for student in STUDENTS
    for teacher in TEACHERS
    if recipe.student in (None, student) and recipe.teacher in (None, teacher)
    if name not in SPECIAL or student == teacher == "transformer"
]


@pytest.mark.parametrize(("name", "student", "teacher"), CASES)
def test_every_recipe_trains_in_every_phase(name, student, teacher):
    shape = SPECIAL.get(name, STUDENTS[student])
    task = make_task(RECIPES[name], shape, TEACHERS[teacher])
    trained = list(task.players["generator"].parameters())
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    task.prepare({**task.players, **task.frozen}, torch.device("cpu"))
    for step in (0, 3, 4, 7):
        losses = []
        for _ in range(4):  # the same batch again and again: its loss must fall
            torch.manual_seed(step)
            loss, figures = task.loss(step, 0)
            assert figures
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        own_text = task._text(task.recipe.phase_at(step, 8)[0], step, 0)[1] == "student"
        assert own_text or losses[-1] < losses[0]
    assert task.validate()["score"] > 0


def test_parts_of_a_batch_of_documents_average_to_the_whole():
    recipe, shape = RECIPES["hinton"], STUDENTS["lstm"]
    sampler = DocumentSampler(STREAM, 12, 8, seed=0)
    task = make_task(recipe, shape, TEACHERS["lstm"], sampler)
    whole, _ = task.loss(3, 0)
    task.parts = 4
    parts = [task.loss(3, part)[0] for part in range(4)]
    assert torch.isclose(sum(parts) / 4, whole, rtol=1e-5)


def test_the_text_of_a_step_is_a_function_of_seed_and_step():
    phase = Phase((Term("soft"),), teacher_text=0.4, student_text=0.3)
    task = make_task(Recipe("mixed", "", "", (phase,)), STUDENTS["lstm"], TEACHERS["lstm"])

    def kind(step: int) -> str:
        batch, source = task._text(phase, step, 0)
        assert (source == "corpus") == torch.equal(batch.tokens, task.batch(step, 0).tokens)
        return source

    kinds = [kind(step) for step in range(200)]
    assert kinds[:50] == [kind(step) for step in range(50)]
    shares = {name: kinds.count(name) / 200 for name in ("student", "teacher", "corpus")}
    assert shares == pytest.approx({"student": 0.3, "teacher": 0.4, "corpus": 0.3}, abs=0.1)


def test_a_continuation_keeps_the_beginning_and_ends_with_its_document():
    torch.manual_seed(1)
    model = build_model(STUDENTS["lstm"])
    batch = DocumentSampler(STREAM, 16, 8, seed=0).batch(0)
    written = continued(model, batch, by_document=True)
    assert written.tokens.shape == batch.tokens.shape
    assert torch.equal(written.tokens[:, 0], batch.tokens[:, 0])
    kept = int(written.mask.float().argmax(1).max())  # targets of the text itself do not count
    assert torch.equal(written.tokens[:, : kept + 1], batch.tokens[:, : kept + 1])
    for row, real in zip(written.tokens[:, 1:], written.mask, strict=True):
        ends = (row == 0).nonzero().flatten()
        length = int(ends[0]) + 1 if len(ends) else len(row)
        assert real.tolist() == [kept <= place < length for place in range(len(row))]
    assert written.weight == pytest.approx(float(written.mask.sum()) / float(batch.mask.sum()))
    again = continued(model, batch, by_document=False)
    assert again.mask.any(0).tolist() == again.mask.all(0).tolist()


def test_hard_targets_are_left_out_on_the_students_own_text():
    objective = Objective(RECIPES["hinton"], STUDENTS["lstm"], TEACHERS["lstm"])
    student, teacher = build_model(STUDENTS["lstm"]), build_model(TEACHERS["lstm"])
    batch = WindowSampler(STREAM, 12, 4, seed=0).batch(0)
    said = LiveTargets(teacher)(batch, internals=False)
    phase = RECIPES["hinton"].phases[0]
    arguments = (phase, 0.0, student(batch.tokens[:, :-1]), said, batch.tokens[:, 1:], batch.mask)
    own, figures = objective.loss(*arguments, own_text=True)
    assert set(figures) == {"soft"}
    assert torch.isclose(own, 0.9 * figures["soft"])
    _, figures = objective.loss(*arguments)
    assert set(figures) == {"hard", "soft"}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_of_other_widths_meet_in_learned_projections(kind):
    task = make_task(RECIPES["pkd-skip"], STUDENTS[kind], TEACHERS["transformer"])
    learner = task.players["generator"]
    assert isinstance(learner, Learner)
    assert sum(p.numel() for p in learner.projections.parameters()) == 12 * 16
    output = learner(task.batch(0, 0).tokens[:, :-1])
    assert [hidden.shape[-1] for hidden in output.hidden] == [16]
    assert task.model.parameters_count() == STUDENTS[kind].parameters()  # saved without them


def test_progressive_phases_take_one_layer_after_the_other():
    recipe, shape, teacher = RECIPES["mobilebert"], SPECIAL["mobilebert"], TEACHERS["transformer"]
    task = make_task(recipe, shape, teacher)
    batch = task.batch(0, 0)
    said = task.targets(batch, internals=True)
    student = task.generator(batch.tokens[:, :-1], internals=True)
    for layer in range(4):
        moved = list(said.hidden)
        moved[layer + 1] = moved[layer + 1] + 1.0
        through = (layer + 0.5) / 4
        arguments = (recipe.phases[0], through, student)
        rest = (batch.tokens[:, 1:], batch.mask)
        before, _ = task.objective.loss(*arguments, said, *rest)
        after, _ = task.objective.loss(*arguments, said._replace(hidden=tuple(moved)), *rest)
        assert not torch.isclose(before, after)
        elsewhere, _ = task.objective.loss(
            recipe.phases[0], (through + 0.5) % 1, student, said._replace(hidden=tuple(moved)), *rest
        )
        unmoved, _ = task.objective.loss(recipe.phases[0], (through + 0.5) % 1, student, said, *rest)
        assert torch.isclose(elsewhere, unmoved)


def test_an_ensemble_is_the_mean_of_its_members_distributions():
    torch.manual_seed(0)
    members = [build_model(TEACHERS["lstm"]), build_model(TEACHERS["transformer"])]
    ensemble = EnsembleGenerator(members).eval()
    tokens = torch.from_numpy(STREAM[:20].astype(np.int64)).view(2, 10)
    with torch.no_grad():
        together = ensemble(tokens)
        mean = sum(model(tokens).logits.softmax(-1) for model in members) / 2
        assert torch.allclose(together.logits.exp(), mean, atol=1e-6)
        first = ensemble(tokens[:, :6])
        rest = ensemble(tokens[:, 6:], first.state)  # the state of every member is carried on
        assert torch.allclose(rest.logits, together.logits[:, 6:], atol=1e-5)
    assert ensemble.parameters_count() == sum(model.parameters_count() for model in members)


def test_sparse_targets_of_a_whole_vocabulary_cost_what_dense_ones_do():
    torch.manual_seed(0)
    student, teacher = build_model(STUDENTS["lstm"]), build_model(TEACHERS["lstm"])
    batch: Batch = WindowSampler(STREAM, 12, 4, seed=0).batch(0)
    dense = LiveTargets(teacher)(batch, internals=False)
    log_p = dense.logits.log_softmax(-1)
    from edgetext.distill.losses import SparseTargets

    top = log_p.topk(V - 1)
    tail = torch.log1p(-top.values.exp().sum(-1))
    sparse = TeacherOutput(None, SparseTargets(top.indices, top.values, tail))
    objective = Objective(RECIPES["jsd"], STUDENTS["lstm"], TEACHERS["lstm"])
    rest = (batch.tokens[:, 1:], batch.mask)
    output = student(batch.tokens[:, :-1])
    for name in ("hinton", "reverse-kl", "jsd", "skew-kl"):
        phase = RECIPES[name].phases[0]
        one, _ = objective.loss(phase, 0.0, output, dense, *rest)
        other, _ = objective.loss(phase, 0.0, output, sparse, *rest)
        assert torch.isclose(one, other, rtol=1e-4)


def test_patience_waits_for_the_phase_that_teaches_to_predict(tmp_path):
    task = make_task(RECIPES["tinybert"], STUDENTS["transformer"], TEACHERS["transformer"], steps=12)
    loop = LoopSettings(12, batch_size=4, sequence_length=12, validate_every=1, patience=1, precision="fp32")
    result = train(task, loop, tmp_path, fingerprint="-", accelerator=open_accelerator("fp32"))
    assert result.best_step > 6  # the first half trains layers only
