"""What a recipe is: a row of phases; a phase is a weighted sum of loss terms over a mixture of texts.

No torch here.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from edgetext.errors import ConfigError

PREDICTION = {
    "hard": "cross-entropy with the text itself",
    "soft": "T² · KL(teacher ‖ student) at temperature T (Hinton et al. 2015)",
    "logit-mse": "squared difference of the logits (Ba & Caruana 2014)",
    "reverse-kl": "KL(student ‖ teacher) (MiniLLM, Gu et al. 2023)",
    "jsd": "generalised Jensen-Shannon divergence at β (GKD, Agarwal et al. 2023)",
    "skew-kl": "KL(teacher ‖ α·teacher + (1-α)·student) (DistiLLM, Ko et al. 2024)",
    "skew-reverse-kl": "KL(student ‖ (1-α)·teacher + α·student) (DistiLLM, Ko et al. 2024)",
}
"""Losses on the next-token distribution."""
HIDDEN = {
    "embedding": "squared difference of the embedding outputs (TinyBERT, Jiao et al. 2020)",
    "hidden": "squared difference of mapped layers' outputs (TinyBERT; MobileBERT's feature maps)",
    "hidden-normalised": "squared difference of outputs of length one (PKD, Sun et al. 2019)",
    "cosine": "angle between mapped layers' outputs (DistilBERT, Sanh et al. 2019)",
}
"""Losses on layer outputs; LSTM and GRU layers count as layers."""
ATTENTION = {
    "attention": "squared difference of attention scores (TinyBERT)",
    "attention-kl": "KL of attention distributions (MiniLM, Wang et al. 2020; MobileBERT)",
    "values": "KL of value relations softmax(V·Vᵀ/√D) (MiniLM)",
}
"""Losses on attention: both sides must be Transformers."""
LOSSES = {**PREDICTION, **HIDDEN, **ATTENTION}
LAYER_MAPS = ("uniform", "skip", "last", "final", "block")
DENSE = {"logit-mse"}
"""Prediction losses that need the whole distribution, not its top k."""


@dataclass(frozen=True)
class Term:
    """One loss of a phase."""

    loss: str
    """A name of `LOSSES`."""
    weight: float = 1.0
    """Factor in the sum."""
    temperature: float = 1.0
    """T of ``soft``: softens both distributions."""
    beta: float = 0.5
    """β of ``jsd``."""
    alpha: float = 0.1
    """α of the skewed divergences."""
    layers: str = "uniform"
    """Layer map of hidden and attention losses: ``uniform``, ``skip``, ``last``, ``final`` or ``block`` (one
    to one)."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        if self.loss not in LOSSES:
            raise ConfigError(f"loss {self.loss!r} is unknown; use one of {', '.join(LOSSES)}")
        if self.layers not in LAYER_MAPS:
            raise ConfigError(f"layer map {self.layers!r} is unknown; use one of {', '.join(LAYER_MAPS)}")
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ConfigError(f"the weight of {self.loss} is {self.weight}; it must be at least 0")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"--temperature is {self.temperature}; it must be positive")
        if not 0 < self.beta < 1 or not 0 < self.alpha < 1:
            raise ConfigError(f"beta and alpha of {self.loss} must be in (0, 1): {self.beta}, {self.alpha}")


@dataclass(frozen=True)
class Phase:
    """A stretch of the training with one objective."""

    terms: tuple[Term, ...]
    share: float = 1.0
    """Length of the phase, relative to the others'."""
    teacher_text: float = 0.0
    """Share of the steps on text written by the teacher."""
    student_text: float = 0.0
    """Share of the steps on the student's own continuations (λ of GKD); ``hard`` is left out there."""
    progressive: bool = False
    """Whether layer terms are switched on one layer after the other (MobileBERT §3.3)."""

    def __post_init__(self) -> None:
        """Check the shares."""
        if not self.terms:
            raise ConfigError("a phase of a recipe needs at least one term")
        names = [term.loss for term in self.terms]
        if len(set(names)) < len(names):
            raise ConfigError(f"a phase has a loss twice: {', '.join(names)}")
        if not (self.share > 0 and math.isfinite(self.share)):
            raise ConfigError(f"the share of a phase is {self.share}; it must be positive")
        if min(self.teacher_text, self.student_text) < 0 or self.teacher_text + self.student_text > 1:
            raise ConfigError(
                f"teacher_text {self.teacher_text} and student_text {self.student_text} are shares of the "
                f"steps; together they can be 1 at most"
            )
        if not self.losses():
            raise ConfigError("all terms of a phase have weight 0; give one of them a weight")
        if self.student_text > 0 and self.losses() == {"hard"}:
            raise ConfigError("hard targets cannot be taken from the student's own text; add a soft loss")

    def losses(self) -> set[str]:
        """Names of the losses with a weight."""
        return {term.loss for term in self.terms if term.weight > 0}


@dataclass(frozen=True)
class Recipe:
    """A way to distil."""

    name: str
    summary: str
    """One line."""
    source: str
    """The paper."""
    phases: tuple[Phase, ...]
    initialise: Literal["fresh", "copy"] = "fresh"
    """``copy``: the student's layers start as copies of the teacher's (equal widths only)."""
    student: str | None = None
    """Kind of student that it is made for, if not any."""
    teacher: str | None = None
    """Kind of teacher that it is made for, if not any."""

    def __post_init__(self) -> None:
        """Check that there is something to do."""
        if not self.phases:
            raise ConfigError(f"recipe {self.name!r} has no phase")
        if self.initialise not in ("fresh", "copy"):
            raise ConfigError(
                f"recipe {self.name!r}: initialise is 'fresh' or 'copy', not {self.initialise!r}"
            )

    def losses(self) -> set[str]:
        """Names of all losses with a weight."""
        return set().union(*(phase.losses() for phase in self.phases))

    def needs_teacher(self) -> bool:
        """Whether anything but the corpus is learned from."""
        return bool(
            self.losses() - {"hard"} or self.initialise == "copy" or any(p.teacher_text for p in self.phases)
        )

    def teacher_writes(self) -> bool:
        """Whether text written by the teacher is needed."""
        return any(phase.teacher_text > 0 for phase in self.phases)

    def by_text_alone(self) -> bool:
        """Whether nothing but text passes from teacher to student, so that vocabularies may differ."""
        return self.losses() == {"hard"} and self.teacher_writes() and self.initialise == "fresh"

    def phase_at(self, step: int, steps: int) -> tuple[Phase, float]:
        """Return the phase of a step (from 0) of `steps`, and how far through it the step is, in [0, 1)."""
        total = sum(phase.share for phase in self.phases)
        done = step / steps * total
        for phase in self.phases:
            if done < phase.share:
                return phase, done / phase.share
            done -= phase.share
        return self.phases[-1], 1.0

    def anchor(self) -> Recipe:
        """Return what keeps a finished student where it is: the last phase's predictions, on its texts."""
        last = self.phases[-1]
        terms = tuple(term for term in last.terms if term.loss in PREDICTION)
        phase = replace(last, terms=terms or (Term("soft"),), share=1.0, progressive=False)
        return replace(self, phases=(phase,), initialise="fresh", student=None, teacher=None)

    def settled_from(self, steps: int) -> int:
        """Step (from 0) at which the last phase begins: what a student predicts before is not yet its own."""
        total = sum(phase.share for phase in self.phases)
        return math.ceil(steps * (1 - self.phases[-1].share / total))

    def with_soft(self, temperature: float | None, soft_weight: float | None) -> Recipe:
        """Return the recipe with another temperature, or another balance of ``soft`` and ``hard``.

        Raises ConfigError if the recipe has no soft targets to change.
        """
        if temperature is None and soft_weight is None:
            return self
        if soft_weight is not None and not 0 <= soft_weight <= 1:
            raise ConfigError(f"--soft-weight is {soft_weight}; it must be in [0, 1]")
        if "soft" not in self.losses():
            raise ConfigError(
                f"--temperature and --soft-weight change soft targets, which recipe {self.name!r} has not; "
                f"leave them out, or use --recipe hinton"
            )
        return replace(self, phases=tuple(_soften(p, temperature, soft_weight) for p in self.phases))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        return asdict(self)


def _soften(phase: Phase, temperature: float | None, soft_weight: float | None) -> Phase:
    """Change the soft term of a phase, and the hard one beside it."""
    if "soft" not in phase.losses():
        return phase
    terms = {term.loss: term for term in phase.terms}
    if temperature is not None:
        terms["soft"] = replace(terms["soft"], temperature=temperature)
    if soft_weight is not None:
        total = terms["soft"].weight + (terms["hard"].weight if "hard" in terms else 0.0)
        terms["soft"] = replace(terms["soft"], weight=total * soft_weight)
        terms["hard"] = replace(terms.get("hard", Term("hard")), weight=total * (1 - soft_weight))
    return replace(phase, terms=tuple(terms.values()))


def describe(recipe: Recipe) -> str:
    """Explain a recipe in a few lines, for a terminal."""
    lines = [f"{recipe.name}: {recipe.summary}"]
    if recipe.source:
        lines.append(f"  after {recipe.source}".replace("after after", "after"))
    needs = [
        f"{side} {kind}" for side, kind in (("teacher", recipe.teacher), ("student", recipe.student)) if kind
    ]
    if needs:
        lines.append(f"  for: {', '.join(needs)}")
    if recipe.initialise == "copy":
        lines.append("  the student's layers start as copies of the teacher's")
    total = sum(phase.share for phase in recipe.phases)
    for number, phase in enumerate(recipe.phases, 1):
        lines.append(f"  phase {number}, {phase.share / total:.0%} of the steps{_texts(phase)}")
        lines += [
            f"    {term.weight:g} × {term.loss}{_settings(term)}: {LOSSES[term.loss]}" for term in phase.terms
        ]
        if phase.progressive:
            lines.append("    layers one after the other")
    return "\n".join(lines)


def _texts(phase: Phase) -> str:
    """Which texts a phase uses beside the corpus."""
    parts = [f"{phase.teacher_text:.0%} on text of the teacher"] if phase.teacher_text else []
    parts += [f"{phase.student_text:.0%} on text of the student"] if phase.student_text else []
    return f" ({', '.join(parts)})" if parts else ""


def _settings(term: Term) -> str:
    """The settings of a term that matter to its loss."""
    used = {"soft": "temperature", "jsd": "beta", "skew-kl": "alpha", "skew-reverse-kl": "alpha"}
    name = used.get(term.loss)
    if term.loss in HIDDEN or term.loss in ATTENTION:
        name = None if term.loss == "embedding" else "layers"
    return f" ({name} {getattr(term, name)})" if name else ""


def to_toml(recipe: Recipe) -> str:
    """Write a recipe as a TOML file that reads back as the same recipe."""
    lines = [
        f"{name} = {json.dumps(getattr(recipe, name), ensure_ascii=False)}"
        for name in ("name", "summary", "source")
    ]
    lines += [
        f'{name} = "{getattr(recipe, name)}"'
        for name in ("initialise", "student", "teacher")
        if getattr(recipe, name)
    ]
    for phase in recipe.phases:
        lines += ["", "[[phases]]", f"share = {float(phase.share)}"]
        lines += [
            f"{name} = {getattr(phase, name)}"
            for name in ("teacher_text", "student_text")
            if getattr(phase, name)
        ]
        lines += ["progressive = true"] if phase.progressive else []
        for term in phase.terms:
            lines += ["", "[[phases.terms]]", f'loss = "{term.loss}"', f"weight = {float(term.weight)}"]
            lines += [
                f"{f.name} = {json.dumps(getattr(term, f.name))}"
                for f in fields(Term)[2:]
                if getattr(term, f.name) != f.default
            ]
    return "\n".join(lines) + "\n"
