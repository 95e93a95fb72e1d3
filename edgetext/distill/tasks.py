"""What the loop trains before refinement: a teacher by likelihood, a student from a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgetext.checkpoint import save_model
from edgetext.config import SoftTargets
from edgetext.distill.losses import hard_cross_entropy, hinton
from edgetext.errors import ConfigError
from edgetext.evaluate.likelihood import Windows, likelihood
from edgetext.models.base import GeneratorModel
from edgetext.training.data import WindowSampler
from edgetext.training.loop import Turn
from edgetext.training.settings import OptimizerSettings


class LikelihoodTask:
    """Maximum likelihood: next-token cross-entropy on the corpus."""

    def __init__(
        self,
        name: str,
        model: GeneratorModel,
        sampler: WindowSampler,
        validation: Windows,
        optimizer: OptimizerSettings,
        parts: int = 1,
    ) -> None:
        self.name, self.model, self.sampler, self.validation = name, model, sampler, validation
        self.players: Mapping[str, nn.Module] = {"generator": model}
        self.optimizers = {"generator": optimizer}
        self.parts = parts
        self.generator: nn.Module = model
        self.device = torch.device("cpu")

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped model."""
        self.generator, self.device = players["generator"], device

    def turns(self, step: int) -> Iterable[Turn]:
        """One move: the generator's."""
        yield Turn("generator", lambda part: self.loss(step, part))

    def windows(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets [B,T] of one part of a step."""
        batch = self.sampler.batch(step, part, self.parts).to(self.device)
        return batch[:, :-1], batch[:, 1:]

    def loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Hard cross-entropy of one part."""
        inputs, targets = self.windows(step, part)
        return hard_cross_entropy(self.generator(inputs).logits, targets), {}

    def tokens(self) -> int:
        """Target tokens per step."""
        return self.sampler.batch_size * self.sampler.length

    def windows_per_pass(self) -> int:
        """Windows in one pass over the training split."""
        return self.sampler.windows

    def validate(self) -> Mapping[str, float]:
        """NLL of the validation split, nats per token."""
        return {"score": likelihood(self.generator, self.validation).nll}

    def save(self, directory: Path) -> None:
        """Write the model directory."""
        save_model(directory, self.model)


class DistillTask(LikelihoodTask):
    """A student learns the teacher's distributions and the corpus at once."""

    def __init__(
        self,
        name: str,
        model: GeneratorModel,
        teacher: GeneratorModel,
        soft: SoftTargets,
        sampler: WindowSampler,
        validation: Windows,
        optimizer: OptimizerSettings,
        parts: int = 1,
    ) -> None:
        super().__init__(name, model, sampler, validation, optimizer, parts)
        if teacher.config.vocab_size != model.config.vocab_size:
            raise ConfigError(
                f"teacher and student vocabularies differ ({teacher.config.vocab_size} and "
                f"{model.config.vocab_size} ids); train the student with the teacher's tokenizer"
            )
        self.teacher = teacher.eval().requires_grad_(False)
        self.soft = soft

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped student; the teacher follows it to its device."""
        super().prepare(players, device)
        self.teacher.to(device)

    def loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Soft and hard targets of one part."""
        inputs, targets = self.windows(step, part)
        with torch.no_grad():
            teacher_logits = self.teacher(inputs).logits
        student_logits = self.generator(inputs).logits
        loss = hinton(
            student_logits,
            teacher_logits,
            targets,
            temperature=self.soft.temperature,
            soft_weight=self.soft.soft_weight,
        )
        return loss, {"hard": hard_cross_entropy(student_logits.detach(), targets)}
