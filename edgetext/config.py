"""The configuration of a run, checked before anything starts. No torch here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from edgetext.corpus.config import CorpusConfig
from edgetext.errors import ConfigError
from edgetext.tokenization import TokenizerKind
from edgetext.training.settings import LoopSettings, OptimizerSettings, Precision

VOCABULARIES: dict[str, int] = {"bpe": 2048, "word": 8192, "char": 1024}
"""Most token ids by tokenizer kind, unless another number is given."""


@dataclass(frozen=True)
class SoftTargets:
    """How a teacher's distribution enters the loss."""

    temperature: float = 1.0
    """T, softens both distributions."""
    soft_weight: float = 0.9
    """w, weight of the soft targets; the hard cross-entropy has 1 - w."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.temperature > 0:
            raise ConfigError(f"--temperature is {self.temperature}; it must be positive")
        if not 0 <= self.soft_weight <= 1:
            raise ConfigError(f"--soft-weight is {self.soft_weight}; it must be in [0, 1]")


@dataclass(frozen=True)
class RefineSettings:
    """The rules of the adversarial game."""

    prefix: int = 8
    """Real tokens given before a continuation."""
    length: int = 24
    """Tokens the student writes after them."""
    rollouts: int = 48
    """Most texts on each side of the discriminator, cut from the windows of one step (or part of one)."""
    adversarial_weight: float = 0.1
    """Weight of the adversarial loss beside the distillation loss (weight 1)."""
    final_beta: float = 2.0
    """Inverse Gumbel temperature at the end; it rises exponentially from about 1."""
    discriminator_rate: float = 1e-3
    """Peak learning rate of the discriminator (Adam, β1 0.5)."""
    discriminator_warmup: int = 20
    """First steps in which the adversarial loss does not yet reach the student; a fifth of them at most."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.prefix < 1 or self.rollouts < 1:
            raise ConfigError(f"refine prefix and rollouts must be ≥ 1, not {self.prefix}, {self.rollouts}")
        if self.length < 5:
            raise ConfigError(f"refine length is {self.length}; the widest convolution needs at least 5")
        if self.adversarial_weight < 0 or self.final_beta < 1:
            raise ConfigError("the refine weight must be ≥ 0 and the final inverse temperature ≥ 1")


@dataclass(frozen=True)
class DistillConfig:
    """Everything `edgetext distill` does, resolved."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Which text, how cut and split."""
    tokenizer: TokenizerKind = "bpe"
    """Tokenizer kind."""
    vocab_size: int | None = None
    """Most token ids; None takes the tokenizer kind's own default (`VOCABULARIES`)."""
    teacher: str = "lstm-teacher"
    """A preset or shape to train, or the directory of a trained teacher."""
    student: str = "lstm-student"
    """The student's preset or shape."""
    teacher_steps: int = 1200
    """Optimiser steps of the teacher."""
    distill_steps: int = 1800
    """Optimiser steps of the distillation."""
    refine_steps: int = 150
    """Optimiser steps of the refinement; 0 leaves it out."""
    batch_size: int = 16
    """Windows per step."""
    sequence_length: int = 96
    """T, tokens per window."""
    accumulation: int = 1
    """Parts a step's batch is split into."""
    patience: int = 0
    """Validations without gain before a training stops early; 0 never."""
    checkpoint_every: int = 100
    """Steps between resumable checkpoints."""
    precision: Precision = "auto"
    """Arithmetic of the training."""
    soft: SoftTargets = field(default_factory=SoftTargets)
    """Soft targets."""
    refine: RefineSettings = field(default_factory=RefineSettings)
    """The adversarial game."""
    teacher_rate: float = 8e-3
    """Peak learning rate of the teacher."""
    student_rate: float = 8e-3
    """Peak learning rate of the distillation."""
    refine_rate: float = 3e-4
    """Peak learning rate of the student in the refinement."""
    seed: int = 0
    """Seed of initialisation, batches, dropout and noise."""

    def __post_init__(self) -> None:
        """Check what no stage checks by itself."""
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed is {self.seed}; it must be in [0, 2**32)")
        if self.vocab_size is not None and self.vocab_size < 1:
            raise ConfigError(f"--vocab-size is {self.vocab_size}; it must be at least 1")
        if self.refine_steps < 0:
            raise ConfigError(f"--refine-steps is {self.refine_steps}; 0 leaves the refinement out")
        span = self.refine.prefix + self.refine.length
        if self.refine_steps and span > self.sequence_length:
            raise ConfigError(
                f"the refinement reads {span} tokens of each window, but --sequence-length is "
                f"{self.sequence_length}; raise it, or leave the refinement out with --refine-steps 0"
            )
        for flag, steps in (("--teacher-steps", self.teacher_steps), ("--distill-steps", self.distill_steps)):
            if steps < 1:
                raise ConfigError(f"{flag} is {steps}; it must be at least 1")
        self.loop(self.teacher_steps)
        for rate in (self.teacher_rate, self.student_rate, self.refine_rate):
            OptimizerSettings(rate)

    def loop(self, steps: int) -> LoopSettings:
        """Loop settings of a stage of so many steps."""
        return LoopSettings(
            steps=steps,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            accumulation=self.accumulation,
            warmup_steps=max(1, min(50, steps // 10)),
            validate_every=max(1, steps // 8),
            patience=self.patience,
            checkpoint_every=self.checkpoint_every,
            precision=self.precision,
            seed=self.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)


def fingerprint(*values: Any) -> str:
    """SHA-256 of JSON values in canonical form: equal settings give equal fingerprints."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
