"""What the loop trains before refinement: a model by likelihood, a student by a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgetext.distill.contrast import RandomState, label_contrast, other_labels
from edgetext.distill.objective import Objective
from edgetext.distill.recipe import ATTENTION, HIDDEN, Phase, Recipe
from edgetext.distill.targets import LiveTargets, Targets, TeacherOutput
from edgetext.evaluate.likelihood import Windows, likelihood
from edgetext.models.base import GeneratorModel, begin
from edgetext.models.config import ModelConfig
from edgetext.training.data import Batch, Sampler
from edgetext.training.loop import Turn
from edgetext.training.settings import OptimizerSettings

Source = Literal["corpus", "teacher", "student"]
"""Who wrote the text of a step."""


CONTRAST_FROM = 0.5
"""Share of a training after which labels are told apart: before, a model has too little to tell them by."""


class DistillTask:
    """A student learns by a recipe: from the text, from a teacher, or from both."""

    def __init__(
        self,
        name: str,
        model: GeneratorModel,
        recipe: Recipe,
        steps: int,
        sampler: Sampler,
        validation: Windows,
        optimizer: OptimizerSettings,
        parts: int = 1,
        *,
        targets: Targets | None = None,
        teacher: ModelConfig | None = None,
        written: Sampler | None = None,
        written_targets: Targets | None = None,
        module: GeneratorModel | None = None,
        contrast: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Bring everything together.

        Args:
            name: of the stage; seeds its random numbers.
            model: the student; its weights are what is saved.
            recipe: checked before by `objective.check_recipe`.
            steps: of the whole training; phases are shares of it.
            sampler: rows of the corpus.
            validation: windows whose likelihood chooses the weights that are kept.
            optimizer: of the student.
            parts: parts of a batch, over all processes.
            targets: the teacher's view of a batch; None if the recipe needs none.
            teacher: the teacher's shape.
            written: rows of text that the teacher wrote, if the recipe uses such.
            written_targets: the teacher's view of those rows, where `targets` cannot give it (a cache).
            module: what runs in place of the student and shares its weights (quantised arithmetic).
            contrast: weight of `contrast.label_contrast`, where texts have labels.
            seed: chooses which steps use which text.
        """
        self.name, self.model, self.recipe, self.steps = name, model, recipe, steps
        self.sampler, self.validation, self.parts, self.seed = sampler, validation, parts, seed
        self.targets, self.written = targets, written
        self.written_targets, self.contrast = written_targets or targets, contrast
        self.objective = Objective(recipe, model.config, teacher)
        self.generator: nn.Module = self.objective.learner(module or model)
        self.players: Mapping[str, nn.Module] = {"generator": self.generator}
        self.optimizers = {"generator": optimizer}
        self.device = torch.device("cpu")
        self.frozen = {"teacher": targets.teacher} if isinstance(targets, LiveTargets) else {}
        self.settled_from = recipe.settled_from(steps)
        self.shardable = not recipe.needs_teacher()  # a teacher in the making

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped student; the teacher follows it to its device."""
        self.generator, self.device = players["generator"], device
        if isinstance(self.targets, LiveTargets):
            self.targets.teacher = players["teacher"]

    def turns(self, step: int) -> Iterable[Turn]:
        """One move: the generator's."""
        yield Turn("generator", lambda part: self.loss(step, part))

    def batch(self, step: int, part: int) -> Batch:
        """One part of a step's rows of the corpus, on the device."""
        return self.sampler.batch(step, part, self.parts).to(self.device)

    def loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The recipe's loss on one part of a step."""
        phase, through = self.recipe.phase_at(step, self.steps)
        batch, source = self._text(phase, step, part)
        own_text = source == "student"
        losses = phase.losses() - ({"hard"} if own_text else set())
        internals = bool(losses & set(ATTENTION))
        teacher = TeacherOutput()
        targets = self.written_targets if source == "teacher" else self.targets
        if targets is not None and losses - {"hard"}:
            teacher = targets(batch, internals=internals)
        inputs = batch.tokens[:, :-1]
        random = RandomState.now(self.device)
        student = begin(self.generator, inputs, batch.condition, **({"internals": True} if internals else {}))
        loss, figures = self.objective.loss(
            phase, through, student, teacher, batch.tokens[:, 1:], batch.mask, own_text=own_text
        )
        tells = self.contrast and step >= CONTRAST_FROM * self.steps and not own_text
        if tells and batch.condition is not None and losses - set(HIDDEN) - set(ATTENTION):
            labels = other_labels(batch.condition)
            random.restore()  # the same units are dropped, or their noise would drown the label
            other = begin(self.generator, inputs, labels)
            value = label_contrast(student.logits, other.logits, batch.tokens[:, 1:], batch.mask)
            loss, figures = loss + self.contrast * value, {**figures, "label": value.detach()}
        return loss * batch.weight, {name: value * batch.weight for name, value in figures.items()}

    def _text(self, phase: Phase, step: int, part: int) -> tuple[Batch, Source]:
        """The text of a step, and who wrote it; which, is a function of seed and step."""
        draw = np.random.default_rng([self.seed, step, 1]).random()
        if draw < phase.student_text:
            batch = self.batch(step, part)
            return continued(self.model, batch, self.sampler.by_document), "student"
        if draw < phase.student_text + phase.teacher_text and self.written is not None:
            return self.written.batch(step, part, self.parts).to(self.device), "teacher"
        return self.batch(step, part), "corpus"

    def tokens(self) -> int:
        """Target tokens per step."""
        return self.sampler.tokens_per_step

    def windows_per_pass(self) -> int:
        """Rows in one pass over the training split."""
        return self.sampler.windows

    def validate(self) -> Mapping[str, float]:
        """NLL of the validation split, nats per token."""
        return {"score": likelihood(self.generator, self.validation).nll}

    def save(self, directory: Path) -> None:
        """Write the model directory."""
        self.model.save(directory)


@torch.no_grad()
def continued(model: GeneratorModel, batch: Batch, by_document: bool, eos_id: int = 0) -> Batch:
    """Replace the end of every row of a batch by the student's own continuation at temperature 1.

    How many tokens are kept is drawn from 1 to half of the batch's width (the first token of a document is
    its boundary); only what the student wrote counts. `by_document` rows end with the first boundary in them.
    The weight is changed so that a step's losses add up to the same whatever its parts. Uses torch's random
    state.
    """
    was_training = model.training
    model.eval()
    width = batch.tokens.shape[1]
    kept = int(torch.randint(1, max(2, width // 2 + 1), ()))
    tokens = batch.tokens[:, :kept]
    output = begin(model, tokens, batch.condition)
    columns = [tokens]
    for place in range(kept, width):
        probabilities = output.logits[:, -1].float().softmax(-1)
        token = torch.multinomial(probabilities, 1)  # [B,1]
        columns.append(token)
        if place + 1 < width:
            output = model(token, output.state)
    model.train(was_training)
    whole = torch.cat(columns, dim=1)
    mask = torch.ones_like(batch.mask)
    if by_document:
        ended = (whole[:, 1:] == eos_id).cumsum(1)
        mask = (ended == 0) | ((ended == 1) & (whole[:, 1:] == eos_id))
    mask[:, : kept - 1] = False
    weight = batch.weight * float(mask.sum()) / float(batch.mask.sum())
    return Batch(whole, mask, batch.starts, weight, batch.condition)
