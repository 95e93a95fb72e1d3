"""What a phase of a recipe costs a student on a batch, and whether a recipe can work at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgetext.distill import losses
from edgetext.distill.matching import COPIED_SHAPE, Projections, layer_map
from edgetext.distill.recipe import ATTENTION, DENSE, HIDDEN, Phase, Recipe, Term
from edgetext.distill.recipes import RECIPES
from edgetext.distill.targets import TeacherOutput
from edgetext.errors import ConfigError
from edgetext.models.base import GeneratorModel, Output, begin
from edgetext.models.config import ModelConfig

Pair = tuple[int, int]
"""Indices into the student's and the teacher's `hidden`: 0 the embedding output, l the l-th layer's."""


class TeacherView(NamedTuple):
    """What of a teacher a recipe can reach."""

    config: ModelConfig
    """Its shape; of an ensemble its first member's."""
    kinds: tuple[str, ...] = ()
    """Kinds of its members, if it is an ensemble."""
    own: bool = True
    """Whether it is one model of edgetext's own kinds, whole and in memory: its attention can be had and its
    layers can be copied."""
    hidden: bool = True
    """Whether its layer outputs can be had (not of an ensemble; of a cache only with --hidden)."""
    dense: bool = True
    """Whether it gives whole distributions (a cache gives the k likeliest)."""
    writes: bool = True
    """Whether it is in memory to score and write any text (a cache is not)."""
    written: bool = False
    """Whether a cache holds text that it wrote."""


def check_recipe(recipe: Recipe, student: ModelConfig, teacher: TeacherView | None) -> None:
    """Refuse a recipe that cannot work between two models.

    Raises ConfigError with the reason and the recipes that can.
    """
    reason = _obstacle(recipe, student, teacher)
    if reason is None:
        return
    able = [name for name, other in RECIPES.items() if _obstacle(other, student, teacher) is None]
    raise ConfigError(
        f"recipe {recipe.name!r} cannot work here: {reason}. Recipes that can: {', '.join(able)}"
    )


def _obstacle(recipe: Recipe, student: ModelConfig, teacher: TeacherView | None) -> str | None:
    """Why a recipe cannot work, or None."""
    if not recipe.needs_teacher():
        return None
    if teacher is None:
        return "it needs a teacher (--teacher), and there is none"
    names = recipe.losses()
    if recipe.student not in (None, student.kind):
        return f"its student is a {recipe.student}, not a {student.kind} (--student)"
    others = [kind for kind in teacher.kinds or (teacher.config.kind,) if kind != recipe.teacher]
    if recipe.teacher is not None and others:
        return f"its teacher is a {recipe.teacher}, not a {others[0]} (--teacher)"
    if names & set(HIDDEN) and not teacher.hidden:
        return "it compares layers, which an ensemble has not, and a cache only if made with --hidden"
    if names & set(ATTENTION):
        reason = _attention_obstacle(student, teacher)
        if reason is not None:
            return reason
    reason = _text_obstacle(recipe, teacher)
    if reason is not None:
        return reason
    try:
        matched_pairs(recipe, student, teacher.config)
        attended_pairs(recipe, student, teacher.config)
    except ConfigError as error:
        return str(error).rstrip(".")
    if recipe.initialise == "copy":
        return _copy_obstacle(student, teacher)
    return None


def _text_obstacle(recipe: Recipe, teacher: TeacherView) -> str | None:
    """Why a teacher cannot give what a recipe wants of its distributions and texts, or None."""
    if recipe.losses() & DENSE and not teacher.dense:
        return "it needs the teacher's whole distribution, and a cache holds the likeliest tokens only"
    if not teacher.writes and any(phase.student_text for phase in recipe.phases):
        return "it scores the student's own text, which a cache does not hold (--teacher instead)"
    if not (teacher.writes or teacher.written) and recipe.teacher_writes():
        return "it uses text of the teacher, which this cache does not hold (cache-targets --written-tokens)"
    return None


def _attention_obstacle(student: ModelConfig, teacher: TeacherView) -> str | None:
    """Why attention cannot be compared, or None."""
    for side, kind in (("student", student.kind), ("teacher", teacher.config.kind)):
        if kind != "transformer":
            return f"it compares attention, and the {side} has none: it is of kind {kind}"
    if not teacher.own:
        return "it compares attention, which only one own Transformer in memory shows"
    if student.heads != teacher.config.heads:
        return (
            f"it compares attention head by head, and the student has {student.heads} heads, the teacher "
            f"{teacher.config.heads} (heads={teacher.config.heads} in --student)"
        )
    return None


def _copy_obstacle(student: ModelConfig, teacher: TeacherView) -> str | None:
    """Why layers cannot be copied, or None."""
    ours, theirs = student, teacher.config
    if not teacher.own:
        return "it copies layers, which takes one teacher of edgetext's own kinds in memory"
    differ = [name for name in COPIED_SHAPE if getattr(ours, name) != getattr(theirs, name)]
    if differ:
        wanted = ",".join(f"{name}={getattr(theirs, name)}" for name in differ if name != "vocab_size")
        return (
            f"it copies the teacher's layers, but {', '.join(differ)} differ; give a student of fewer layers "
            f"and the same widths ({wanted})"
        )
    return None


def layer_pairs(term: Term, student: ModelConfig, teacher: ModelConfig) -> tuple[Pair, ...]:
    """Pairs of hidden outputs that a layer term compares. Raises ConfigError if its map is impossible."""
    if term.loss == "embedding":
        return ((0, 0),)
    return layer_map(student.layers, teacher.layers, term.layers)


def matched_pairs(recipe: Recipe, student: ModelConfig, teacher: ModelConfig) -> tuple[Pair, ...]:
    """All pairs of hidden outputs that a recipe compares, in order."""
    return _pairs(recipe, HIDDEN, student, teacher)


def attended_pairs(recipe: Recipe, student: ModelConfig, teacher: ModelConfig) -> tuple[Pair, ...]:
    """All pairs of layers whose attention a recipe compares, in order."""
    return _pairs(recipe, ATTENTION, student, teacher)


def _pairs(
    recipe: Recipe, kinds: Mapping[str, str], student: ModelConfig, teacher: ModelConfig
) -> tuple[Pair, ...]:
    terms = [term for phase in recipe.phases for term in phase.terms if term.loss in kinds and term.weight]
    return tuple(sorted({pair for term in terms for pair in layer_pairs(term, student, teacher)}))


class Learner(nn.Module):
    """A student together with the projections that are learned for the comparison with its teacher only."""

    def __init__(
        self, student: nn.Module, config: ModelConfig, teacher: ModelConfig, pairs: tuple[Pair, ...]
    ) -> None:
        super().__init__()
        self.student, self.pairs = student, pairs
        ours = [(config.embedding, config.hidden)[min(s, 1)] for s, _ in pairs]
        theirs = [(teacher.embedding, teacher.hidden)[min(t, 1)] for _, t in pairs]
        self.projections = Projections(tuple(zip(ours, theirs, strict=True)))

    def forward(self, tokens: Tensor, condition: Tensor | None = None, internals: bool = False) -> Output:
        """Run the student; `hidden` holds, pair by pair, its outputs at the teacher's width."""
        output = begin(self.student, tokens, condition, **({"internals": True} if internals else {}))
        matched = self.projections([output.hidden[s] for s, _ in self.pairs])
        return output._replace(hidden=tuple(matched))


class Objective:
    """The loss of a recipe between one student and its teacher."""

    def __init__(self, recipe: Recipe, student: ModelConfig, teacher: ModelConfig | None) -> None:
        self.recipe, self.student, self.teacher = recipe, student, teacher
        self.pairs = matched_pairs(recipe, student, teacher) if teacher is not None else ()

    def learner(self, module: GeneratorModel) -> nn.Module:
        """Return what is trained: the student, with projections where hidden outputs are compared."""
        if self.teacher is None or not self.pairs:
            return module
        return Learner(module, self.student, self.teacher, self.pairs)

    def loss(
        self,
        phase: Phase,
        through: float,
        student: Output,
        teacher: TeacherOutput,
        targets: Tensor,
        mask: Tensor,
        *,
        own_text: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of a phase's terms, and each of them detached; means over real tokens.

        `student` comes from `learner`; `through` says how far the phase is; on the student's own text
        (`own_text`) there are no hard targets.
        """
        total = student.logits.new_zeros((), dtype=torch.float32)
        figures: dict[str, Tensor] = {}
        for term in phase.terms:
            if term.weight == 0 or (own_text and term.loss == "hard"):
                continue
            if term.loss in HIDDEN or term.loss in ATTENTION:
                value = self._layers(term, phase, through, student, teacher, mask)
            else:
                value = prediction_loss(term, student.logits, teacher, targets, mask)
            total = total + term.weight * value
            figures[term.loss] = value.detach()
        return total, figures

    def _layers(
        self,
        term: Term,
        phase: Phase,
        through: float,
        student: Output,
        teacher: TeacherOutput,
        mask: Tensor,
    ) -> Tensor:
        """Mean over the pairs of a layer term (of a progressive phase: the pair whose turn it is)."""
        if self.teacher is None:
            raise ConfigError(f"{term.loss} needs a teacher (--teacher)")
        pairs = layer_pairs(term, self.student, self.teacher)
        if phase.progressive:
            pairs = (pairs[min(int(through * len(pairs)), len(pairs) - 1)],)
        values = [self._pair(term, pair, student, teacher, mask) for pair in pairs]
        return torch.stack(values).mean()

    def _pair(self, term: Term, pair: Pair, student: Output, teacher: TeacherOutput, mask: Tensor) -> Tensor:
        s, t = pair
        if term.loss == "attention":
            return losses.attention_mse(student.attention[s - 1], teacher.attention[t - 1], mask)
        if term.loss == "attention-kl":
            return losses.attention_kl(student.attention[s - 1], teacher.attention[t - 1], mask)
        if term.loss == "values":
            return losses.value_relation_kl(student.values[s - 1], teacher.values[t - 1], mask)
        compare = {
            "hidden-normalised": losses.normalised_hidden_mse,
            "cosine": losses.hidden_cosine,
        }.get(term.loss, losses.hidden_mse)
        return compare(student.hidden[self.pairs.index(pair)], teacher.hidden[t], mask)


def prediction_loss(
    term: Term, student_logits: Tensor, teacher: TeacherOutput, targets: Tensor, mask: Tensor
) -> Tensor:
    """One loss on the next-token distribution; logits [B,T,V], targets and mask [B,T]."""
    if term.loss == "hard":
        return losses.hard_cross_entropy(student_logits, targets, mask)
    if term.loss == "logit-mse":
        if teacher.logits is None:
            raise ConfigError("logit-mse needs whole distributions, which a cache has not")
        return losses.logit_mse(student_logits, teacher.logits, mask)
    if term.loss == "soft" and teacher.logits is not None:
        return losses.soft_cross_entropy(student_logits, teacher.logits, mask, term.temperature)
    if term.loss == "soft" and teacher.sparse is not None:
        return losses.sparse_cross_entropy(student_logits, teacher.sparse, mask, term.temperature)
    ours, theirs = teacher.log_probs(student_logits)
    if term.loss == "reverse-kl":
        return losses.reverse_kl(ours, theirs, mask)
    if term.loss == "jsd":
        return losses.jensen_shannon(ours, theirs, mask, beta=term.beta)
    skewed = losses.skew_kl if term.loss == "skew-kl" else losses.skew_reverse_kl
    return skewed(ours, theirs, mask, alpha=term.alpha)
