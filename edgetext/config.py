"""The configuration of a run, checked before anything starts. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from edgetext.adversarial.settings import RefineSettings
from edgetext.corpus.config import CorpusConfig
from edgetext.distill.recipe import Recipe
from edgetext.distill.recipes import RECIPES, recipe_from_dict
from edgetext.errors import ConfigError
from edgetext.tokenization import TokenizerKind
from edgetext.training.settings import LoopSettings, OptimizerSettings, Precision

VOCABULARIES: dict[str, int] = {"bpe": 2048, "word": 8192, "char": 1024}
"""Most token ids by tokenizer kind, unless another number is given."""
LABEL_CONTRAST = 4.0
"""Weight of `distill.contrast.label_contrast` unless another is given."""
WindowKind = Literal["stream", "document"]


@dataclass(frozen=True)
class DistillConfig:
    """Everything `edgetext distill` does, resolved."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Which text, how cut and split."""
    tokenizer: TokenizerKind = "bpe"
    """Tokenizer kind."""
    vocab_size: int | None = None
    """Most token ids; None takes the tokenizer kind's own default (`VOCABULARIES`)."""
    windows: WindowKind = "stream"
    """What a training and an evaluation window is: T tokens of the ``stream``, across boundaries, or one
    ``document``."""
    teachers: tuple[str, ...] = ("lstm-teacher",)
    """Presets or shapes to train, directories of trained teachers, or none; several are an ensemble."""
    assistants: tuple[str, ...] = ()
    """Presets or shapes of teacher assistants: each is distilled from the one before, the student from the
    last (Mirzadeh et al. 2020)."""
    cache: str | None = None
    """Directory of cached targets, in place of the teacher's own."""
    start: str | None = None
    """A run that has distilled its student: what it made up to there is taken over."""
    student: str = "lstm-student"
    """The student's preset or shape."""
    budget_mb: float | None = None
    """Size of the int8 bundle, megabytes (10⁶ bytes), that the largest student is chosen for."""
    budget_ms: float | None = None
    """Milliseconds per token on this machine that the largest student is chosen for."""
    recipe: Recipe = field(default_factory=lambda: RECIPES["hinton"])
    """What the student learns from its teacher."""
    teacher_steps: int = 1200
    """Optimiser steps of a teacher that is trained."""
    finetune_steps: int = 0
    """Optimiser steps of fine-tuning a given teacher on the corpus first; 0 leaves it as it is."""
    distill_steps: int = 1800
    """Optimiser steps of a distillation."""
    refine_steps: int = 150
    """Optimiser steps of the refinement; 0 leaves it out."""
    quantized_steps: int = 0
    """Last optimiser steps of the student in the arithmetic of the int8 bundle; 0 leaves them out."""
    written_tokens: int | None = None
    """Tokens that the teacher writes for recipes that use its text; None: as many as the corpus has."""
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
    shard: bool = False
    """Whether teachers are split over the processes."""
    compile: bool = False
    """Whether models are compiled with torch.compile for training."""
    refine: RefineSettings = field(default_factory=RefineSettings)
    """The adversarial game."""
    label_contrast: float | None = None
    """Weight of the surprise at a text's label in every training on labelled text; None: `LABEL_CONTRAST`."""
    teacher_rate: float = 8e-3
    """Peak learning rate of a teacher that is trained."""
    finetune_rate: float = 3e-4
    """Peak learning rate of a given teacher's fine-tuning."""
    student_rate: float = 8e-3
    """Peak learning rate of a distillation."""
    refine_rate: float = 3e-4
    """Peak learning rate of the student in the refinement."""
    quantized_rate: float = 1e-3
    """Peak learning rate of the student's last steps in int8 arithmetic."""
    frontier: bool = True
    """Whether the final measurement includes temperature sweeps of every model."""
    seed: int = 0
    """Seed of initialisation, batches, dropout and noise."""

    def __post_init__(self) -> None:
        """Check what no stage checks by itself."""
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed is {self.seed}; it must be in [0, 2**32)")
        if self.vocab_size is not None and self.vocab_size < 1:
            raise ConfigError(f"--vocab-size is {self.vocab_size}; it must be at least 1")
        self._check_steps()
        self._check_labels()
        self._check_teacher()
        self._check_refinement()
        for flag, budget in (("--budget-mb", self.budget_mb), ("--budget-ms", self.budget_ms)):
            if budget is not None and not (budget > 0 and math.isfinite(budget)):
                raise ConfigError(f"{flag} is {budget}; it must be positive")
        if self.windows not in ("stream", "document"):
            raise ConfigError(f"--windows is {self.windows!r}; use stream or document")
        if self.written_tokens is not None and self.written_tokens < 1:
            raise ConfigError(f"--written-tokens is {self.written_tokens}; it must be at least 1")
        self.loop(self.teacher_steps)
        for rate in (
            self.teacher_rate,
            self.finetune_rate,
            self.student_rate,
            self.refine_rate,
            self.quantized_rate,
        ):
            OptimizerSettings(rate)

    def _check_steps(self) -> None:
        for flag, steps, least in (
            ("--refine-steps", self.refine_steps, 0),
            ("--finetune-steps", self.finetune_steps, 0),
            ("--quantized-steps", self.quantized_steps, 0),
            ("--teacher-steps", self.teacher_steps, 1),
            ("--distill-steps", self.distill_steps, 1),
        ):
            if steps < least:
                raise ConfigError(f"{flag} is {steps}; it must be at least {least}")

    def _check_labels(self) -> None:
        if not 0 <= self.contrast < math.inf:
            raise ConfigError(f"--label-contrast is {self.label_contrast}; it must be 0 or more")
        if self.corpus.label_column is None:
            return
        given = "--label-column makes a conditioned generator"
        if self.windows != "document":
            raise ConfigError(f"{given}: a label belongs to a whole document; add --windows document")
        if self.refine_steps:
            raise ConfigError(f"{given}, which has no refinement yet; add --refine-steps 0")
        if self.cache:
            raise ConfigError(f"{given}, and a cache holds no labels; give --teacher instead of --cache")
        if self.recipe.teacher_writes():
            raise ConfigError(
                f"{given}, and recipe {self.recipe.name!r} has the teacher write text, which has no label; "
                f"take another --recipe"
            )

    def _check_teacher(self) -> None:
        if self.teachers and self.cache:
            raise ConfigError("targets come from a teacher or its cache: give --teacher or --cache, not both")
        if self.recipe.needs_teacher() and not self.teachers and not self.cache:
            raise ConfigError(
                f"recipe {self.recipe.name!r} needs a teacher; give --teacher, or train on the text alone "
                f"with --recipe no-teacher"
            )
        if self.assistants and not self.teachers:
            raise ConfigError("--assistant learns from a teacher in memory; give --teacher as well")

    def _check_refinement(self) -> None:
        if not self.refine_steps:
            return
        remedy = "leave the refinement out (--refine-steps 0)"
        if not self.recipe.needs_teacher() or self.recipe.by_text_alone():
            raise ConfigError(
                f"the refinement is anchored to a teacher's distributions, which recipe "
                f"{self.recipe.name!r} does not use; {remedy}"
            )
        if self.refine.gradient == "soft" and self.cache:
            raise ConfigError(
                f"the refinement {self.refine.name!r} compares with the teacher itself, which a cache has "
                f"not; give --teacher, or another --refinement"
            )
        span = self.refine.length + (1 if self.windows == "document" else self.refine.prefix)
        if span > self.sequence_length:
            raise ConfigError(
                f"the refinement reads {span} tokens of each window, but --sequence-length is "
                f"{self.sequence_length}; raise it, or {remedy}"
            )

    @property
    def contrast(self) -> float:
        """Weight of the surprise at a text's label; 0 without labels."""
        if self.corpus.label_column is None:
            return 0.0
        return LABEL_CONTRAST if self.label_contrast is None else self.label_contrast

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
            compile=self.compile,
            shard=self.shard,
            seed=self.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistillConfig:
        """Build from what `to_dict` returned; entries that are no fields of a run are ignored.

        Raises ConfigError if a value is missing or cannot be.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping):
            raise ConfigError("the configuration of this run is damaged; start it again with --force")
        given = {name: value for name, value in values.items() if name in known}
        try:
            return cls(
                **{
                    **given,
                    "corpus": CorpusConfig(**given["corpus"]),
                    "recipe": recipe_from_dict(given["recipe"]),
                    "refine": RefineSettings.from_dict(given["refine"]),
                    "teachers": tuple(given["teachers"]),
                    "assistants": tuple(given["assistants"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"the configuration of this run was written by another version of edgetext ({error}); start "
                f"it again with --force"
            ) from error


def fingerprint(*values: Any) -> str:
    """SHA-256 of JSON values in canonical form: equal settings give equal fingerprints."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
