"""Distillation losses: pure functions, masked, mean over real tokens.

Because the mean is taken over real tokens only, no loss changes with the padding that follows a text, and
the parts of a split batch, weighted by their counts of real tokens, average to the loss of the whole.

Every loss computes in float32, also under autocast; float64 inputs stay float64. The teacher is p and the
student q, and gradients flow to whatever asks for them: run the teacher without. A teacher may give events
zero probability (a logarithm of -inf), a student, whose logits are finite, cannot.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgetext.distill.fused import CoarseTargetsLoss, SampledTargetsLoss, SoftTargetsLoss, row_weights
from edgetext.errors import ConfigError


class SparseTargets(NamedTuple):
    """A teacher's K most probable next tokens at every position, the mass of the rest, and draws from it."""

    ids: Tensor
    """[B,T,K] int64, distinct within a row."""
    log_probs: Tensor
    """[B,T,K], their log-probabilities at temperature 1."""
    log_tail: Tensor
    """[B,T], log of the probability left to the V - K other tokens."""
    tail_ids: Tensor | None = None
    """[B,T,S] int64, drawn from those; each stands for 1/S of it, which in the mean is the teacher's
    distribution (Anshumann et al. 2025). None, or S = 0: nothing is known of the tail's shape."""


_IMPOSSIBLE = -1000.0
"""Log-probability of what has none: its exponential is zero, and zero times it is zero, which zero times
-inf is not. Where a student does give such an event mass q, a divergence grows by about 1000 q: much, yet
finite."""

# --- reduction ---------------------------------------------------------------------------------------------


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [B,T] over the positions where mask [B,T] is true (all of them without a mask).

    What stands at the other positions does not matter, finite or not. Zero where nothing is real.
    """
    if mask is None:
        return values.mean()
    real = mask.bool()
    return values.masked_fill(~real, 0).sum() / real.sum().clamp_min(1)


def _precise(values: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64."""
    return values if values.dtype == torch.float64 else values.float()


def _check_shapes(student: Tensor, teacher: Tensor, what: str, remedy: str) -> None:
    """Refuse shapes that would only broadcast."""
    if student.shape != teacher.shape:
        raise ConfigError(
            f"{what} of student and teacher differ in shape ({list(student.shape)} and "
            f"{list(teacher.shape)}); {remedy}"
        )


def _pair(student: Tensor, teacher: Tensor, what: str, remedy: str) -> tuple[Tensor, Tensor]:
    """Both sides in full precision; shapes that would only broadcast are refused."""
    _check_shapes(student, teacher, what, remedy)
    return _precise(student), _precise(teacher)


# --- targets -----------------------------------------------------------------------------------------------


def hard_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood, in nats per token, of targets [B,T] under logits [B,T,V]."""
    nll = F.cross_entropy(_precise(logits).flatten(0, 1), targets.flatten(), reduction="none")
    return masked_mean(nll.view(targets.shape), mask)


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, mean over tokens; logits [B,T,V].

    The factor T² keeps the gradient's size independent of T (Hinton, Vinyals & Dean 2015, §2, eq. 1–2). The
    teacher's entropy is subtracted, so the loss is zero when both agree; the gradient is that of the soft
    cross-entropy, and none reaches the teacher. As T grows it tends to half of `logit_mse`.
    """
    _check_shapes(student_logits, teacher_logits, "logits", _ONE_VOCABULARY)
    weight = row_weights(student_logits, mask)
    loss: Tensor = SoftTargetsLoss.apply(  # type: ignore[no-untyped-call]
        student_logits.flatten(0, 1), teacher_logits.flatten(0, 1), weight, temperature
    )
    return loss


def sparse_cross_entropy(
    student_logits: Tensor, targets: SparseTargets, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """`soft_cross_entropy` with stored targets.

    At temperature 1 the tail is what was drawn from it, whose gradient is that of the teacher's whole
    distribution in the mean (the value is larger by what the draws lack of its entropy). At another, where
    the draws are not in proportion, and without draws, the K + 1 events of `sparse_log_probs` are compared.
    """
    if student_logits.shape[:-1] != targets.ids.shape[:-1]:
        raise ConfigError(
            f"logits of shape {list(student_logits.shape)} and stored targets of shape "
            f"{list(targets.ids.shape)} differ in positions; look the targets up for the same batch"
        )
    log_p = sparse_log_probs(targets, student_logits.shape[-1], temperature)  # [B,T,K+1]
    weight = row_weights(student_logits, mask)
    rows = (student_logits.flatten(0, 1), targets.ids.flatten(0, 1), log_p.flatten(0, 1))
    loss: Tensor
    draws = targets.tail_ids
    if temperature == 1.0 and draws is not None and draws.shape[-1]:
        drawn = draws.flatten(0, 1)
        loss = SampledTargetsLoss.apply(*rows, drawn, weight)  # type: ignore[no-untyped-call]
    else:
        loss = CoarseTargetsLoss.apply(*rows, weight, temperature)  # type: ignore[no-untyped-call]
    return loss


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over V of the squared difference of logits [B,T,V] whose row means were removed, mean over tokens.

    Logit matching (Buciluă et al. 2006; Ba & Caruana 2014, §2). Softmax does not see a row's mean, so it
    is not learned either: the zero-mean assumption under which Hinton et al. (2015, §2.1, eq. 4) show soft
    targets at high temperature to be logit matching.
    """
    student, teacher = _pair(student_logits, teacher_logits, "logits", _ONE_VOCABULARY)
    difference = student - teacher
    centred = difference - difference.mean(-1, keepdim=True)
    return masked_mean(centred.square().mean(-1), mask)


_ONE_VOCABULARY = "give both the same vocabulary (restrict the teacher's to the student's)"


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else logits / temperature


# --- divergences over any set of events --------------------------------------------------------------------


def log_probs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities [B,T,V] of logits [B,T,V] at a temperature, taken in full precision."""
    return torch.log_softmax(_scaled(_precise(logits), temperature), dim=-1)


def forward_kl(student_log: Tensor, teacher_log: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(p ‖ q) = Σ p (log p - log q), teacher p, student q, nats; mean over tokens.

    Log-probabilities [B,T,N], every row normalised; N = V tokens or K + 1 coarse events. Covers the teacher's
    modes (Hinton et al. 2015, without the factor T²).
    """
    student, teacher = _log_pair(student_log, teacher_log)
    return masked_mean(_kl(teacher, student), mask)


def reverse_kl(student_log: Tensor, teacher_log: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(q ‖ p) = Σ q (log q - log p), teacher p, student q, nats; mean over tokens; inputs [B,T,N].

    Token-level form of MiniLLM's objective (Gu et al. 2023, §2.1): seeks the teacher's modes.
    """
    student, teacher = _log_pair(student_log, teacher_log)
    return masked_mean(_kl(student, teacher), mask)


def jensen_shannon(
    student_log: Tensor, teacher_log: Tensor, mask: Tensor | None = None, *, beta: float
) -> Tensor:
    """β KL(p ‖ m) + (1-β) KL(q ‖ m) with m = β p + (1-β) q, 0 < β < 1; mean over tokens; inputs [B,T,N].

    The generalised Jensen–Shannon divergence of GKD (Agarwal et al. 2023, §2), bounded by the
    entropy of (β, 1-β). It vanishes at both ends: divided by β it tends to KL(p ‖ q) as β → 0, divided by
    1-β to KL(q ‖ p) as β → 1; β = 1/2 is symmetric. Raises ConfigError for β outside (0, 1).
    """
    if not 0.0 < beta < 1.0:
        raise ConfigError(
            f"beta must lie between 0 and 1, both excluded, where the divergence is zero (got {beta}); "
            "for its limits use the forward or the reverse KL divergence"
        )
    student, teacher = _log_pair(student_log, teacher_log)
    mixture = _mixture(teacher, student, beta)
    return masked_mean(beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture), mask)


def skew_kl(student_log: Tensor, teacher_log: Tensor, mask: Tensor | None = None, *, alpha: float) -> Tensor:
    """KL(p ‖ α p + (1-α) q), 0 ≤ α < 1, teacher p, student q; mean over tokens; inputs [B,T,N].

    Skewed KL of DistiLLM (Ko et al. 2024, §3.1): at most -log α, so no token can dominate a step; α = 0 is
    the forward KL. Raises ConfigError for α outside [0, 1).
    """
    _check_alpha(alpha)
    student, teacher = _log_pair(student_log, teacher_log)
    return masked_mean(_kl(teacher, _mixture(teacher, student, alpha)), mask)


def skew_reverse_kl(
    student_log: Tensor, teacher_log: Tensor, mask: Tensor | None = None, *, alpha: float
) -> Tensor:
    """KL(q ‖ (1-α) p + α q), 0 ≤ α < 1, teacher p, student q; mean over tokens; inputs [B,T,N].

    Skewed reverse KL of DistiLLM (Ko et al. 2024, §3.1), at most -log α; α = 0 is the reverse KL. Raises
    ConfigError for α outside [0, 1).
    """
    _check_alpha(alpha)
    student, teacher = _log_pair(student_log, teacher_log)
    return masked_mean(_kl(student, _mixture(student, teacher, alpha)), mask)


def _check_alpha(alpha: float) -> None:
    if not 0.0 <= alpha < 1.0:
        raise ConfigError(f"alpha must be at least 0 and below 1, where the divergence is zero (got {alpha})")


def _log_pair(student_log: Tensor, teacher_log: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in full precision, the teacher's -inf replaced by `_IMPOSSIBLE`."""
    remedy = "compare distributions over the same events"
    student, teacher = _pair(student_log, teacher_log, "log-probabilities", remedy)
    return student, teacher.clamp_min(_IMPOSSIBLE)


def _kl(p_log: Tensor, q_log: Tensor) -> Tensor:
    """KL(p ‖ q) of every row, [...,N] to [...]."""
    return (p_log.exp() * (p_log - q_log)).sum(-1)


def _mixture(p_log: Tensor, q_log: Tensor, weight: float) -> Tensor:
    """log(w p + (1-w) q), 0 ≤ w < 1."""
    if weight == 0.0:
        return q_log
    return torch.logaddexp(p_log + math.log(weight), q_log + math.log1p(-weight))


# --- coarse events: the K tokens a teacher named, and everything else --------------------------------------


def coarse_log_probs(student_logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities [B,T,K+1] of the tokens ids [B,T,K] and, last, of all other tokens together.

    From logits [B,T,V] at a temperature. The others are summed themselves, not taken as one minus the rest,
    so a small tail keeps its precision and its gradient.
    """
    scaled = _scaled(_precise(student_logits), temperature)
    named = scaled.gather(-1, ids)  # [B,T,K]
    if ids.shape[-1] == scaled.shape[-1]:  # nothing else is left
        others = named.logsumexp(-1, keepdim=True) + _IMPOSSIBLE
    else:
        others = scaled.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)  # [B,T,1]
    return torch.log_softmax(torch.cat([named, others], dim=-1), dim=-1)


def sparse_log_probs(targets: SparseTargets, vocab_size: int, temperature: float = 1.0) -> Tensor:
    """The same K + 1 events, [B,T,K+1], under stored targets at a temperature; rows are normalised again.

    At temperature 1 this is exact up to the storage's rounding. At any other the tail's shape would be
    needed; it is taken as uniform over the V - K other tokens. The divergence of coarse events is at most
    that of the full distributions and equals it for K ≥ V - 1. Multiply it by T² as for `soft_cross_entropy`.
    """
    named, tail = _precise(targets.log_probs), _precise(targets.log_tail).unsqueeze(-1)
    others = vocab_size - named.shape[-1]
    if others < 0:
        raise ConfigError(
            f"targets name {named.shape[-1]} tokens of a vocabulary of {vocab_size}; "
            "they were made for another tokenizer: make them again"
        )
    if others == 0:
        tail = torch.full_like(tail, -torch.inf)
    else:
        tail = math.log(others) + (tail - math.log(others)) / temperature
    return torch.log_softmax(torch.cat([_scaled(named, temperature), tail], dim=-1), dim=-1)


# --- hidden states -----------------------------------------------------------------------------------------

_PROJECT = "project the student's to the teacher's width (matching.Projections)"


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of hidden states [B,T,H]: mean over features, then over tokens.

    TinyBERT (Jiao et al. 2020, eq. 8; eq. 9 for embeddings), the projection already applied.
    """
    student, teacher = _pair(student, teacher, "hidden states", _PROJECT)
    return masked_mean((student - teacher).square().mean(-1), mask)


def normalised_hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance of hidden states [B,T,H] scaled to length one: sum over features, mean over tokens.

    Patient knowledge distillation (Sun et al. 2019, eq. 7). Equal to twice `hidden_cosine`.
    """
    student, teacher = _pair(student, teacher, "hidden states", _PROJECT)
    difference = F.normalize(student, dim=-1, eps=_EPSILON) - F.normalize(teacher, dim=-1, eps=_EPSILON)
    return masked_mean(difference.square().sum(-1), mask)


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - cos of the angle between hidden states [B,T,H], mean over tokens.

    The cosine loss of DistilBERT (Sanh et al. 2019, §2). Computed as half the squared distance of the vectors
    scaled to length one, which does not cancel when the two are nearly parallel.
    """
    return normalised_hidden_mse(student, teacher, mask) / 2


_EPSILON = 1e-6  # shorter vectors are not scaled up further; bounds the gradient near zero


# --- attention ---------------------------------------------------------------------------------------------


def attention_mse(student_scores: Tensor, teacher_scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of attention scores before softmax, [B,heads,T,T], over what a query may see.

    TinyBERT (Jiao et al. 2020, eq. 7), made causal: a query's mean over heads and over the positions up to
    its own, then the mean over real queries. The future of a query is never read.
    """
    student, teacher = _pair(student_scores, teacher_scores, "attention scores", _SAME_HEADS)
    T = student.shape[-1]
    squared = (student - teacher).square().masked_fill(_future(T, student.device), 0)  # [B,heads,T,T]
    allowed = torch.arange(1, T + 1, device=student.device)  # positions that query t may see
    return masked_mean(squared.mean(1).sum(-1) / allowed, mask)


def attention_kl(student_scores: Tensor, teacher_scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(teacher ‖ student) of causal attention, from scores [B,heads,T,T] before softmax.

    MiniLM's attention distribution transfer (Wang et al. 2020, §3.1): mean over heads and real queries.
    """
    student, teacher = _pair(student_scores, teacher_scores, "attention scores", _SAME_HEADS)
    return _relation_kl(student, teacher, mask)


def value_relation_kl(
    student_values: Tensor,
    teacher_values: Tensor,
    mask: Tensor | None = None,
    *,
    relation_heads: int | None = None,
) -> Tensor:
    """KL(teacher ‖ student) of causal value relations softmax(V Vᵀ / √D), mean over heads and tokens.

    MiniLM (Wang et al. 2020, §3.2). Values are [B,h,T,D] and [B,h',T,D']; the widths D need not agree.
    Where the numbers of heads differ, `relation_heads` cuts the concatenated heads of each side into that
    many (MiniLMv2, Wang et al. 2021, §3.1). Raises ConfigError when heads differ and no number is given, or
    when it does not divide a side's width.
    """
    if relation_heads is None and student_values.shape[1] != teacher_values.shape[1]:
        raise ConfigError(
            f"student and teacher have {student_values.shape[1]} and {teacher_values.shape[1]} attention "
            "heads; give the number of relation heads"
        )
    with torch.autocast(student_values.device.type, enabled=False):  # it would round the products
        student = _relations(_precise(student_values), relation_heads)
        teacher = _relations(_precise(teacher_values), relation_heads)
    remedy = "give both sides the same batch"
    return _relation_kl(*_pair(student, teacher, "value relations", remedy), mask)


_SAME_HEADS = (
    "attention transfer needs the same number of heads; use hidden states, or value relations with a "
    "number of relation heads"
)


def _relations(values: Tensor, heads: int | None) -> Tensor:
    """Scaled dot products V Vᵀ / √D of every head, [B,h,T,D] to [B,heads,T,T]."""
    B, own, T, D = values.shape
    if heads is not None and heads != own:
        if heads < 1 or own * D % heads:
            raise ConfigError(
                f"{heads} relation heads do not divide a width of {own * D}; choose a divisor of both widths"
            )
        merged = values.transpose(1, 2).reshape(B, T, own * D)
        values = merged.view(B, T, heads, own * D // heads).transpose(1, 2)  # [B,heads,T,D]
    return values @ values.transpose(-1, -2) / math.sqrt(values.shape[-1])


def _relation_kl(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """KL(teacher ‖ student) of the causal softmax of scores [B,heads,T,T]; mean over heads and tokens."""
    hidden = torch.finfo(student.dtype).min / 4  # finite, so that its product with zero is zero
    future = _future(student.shape[-1], student.device)
    student_log = torch.log_softmax(student.masked_fill(future, hidden), dim=-1)
    teacher_log = torch.log_softmax(teacher.masked_fill(future, hidden), dim=-1)
    return masked_mean(_kl(teacher_log, student_log).mean(1), mask)


def _future(length: int, device: torch.device) -> Tensor:
    """[T,T], true where a key lies after its query."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
