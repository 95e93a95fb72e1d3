"""Where a student's targets come from: a teacher in memory, or the cache of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from edgetext.distill.losses import SparseTargets, coarse_log_probs, sparse_log_probs
from edgetext.models.base import GeneratorModel, begin
from edgetext.training.data import Batch

if TYPE_CHECKING:
    from edgetext.distill.cache import TargetCache


class TeacherOutput(NamedTuple):
    """What a teacher says about a batch: whole logits, or the k likeliest tokens."""

    logits: Tensor | None = None
    """[B,T,V]."""
    sparse: SparseTargets | None = None
    """Top k with the mass of the rest, if `logits` is None."""
    hidden: tuple[Tensor, ...] = ()
    """L + 1 layer outputs [B,T,H], if the teacher shows them."""
    attention: tuple[Tensor, ...] = ()
    """Scores before softmax [B,heads,T,T] of every layer, if asked for."""
    values: tuple[Tensor, ...] = ()
    """Attention values [B,heads,T,D] of every layer, if asked for."""

    def log_probs(self, student_logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return (student's, teacher's) log-probabilities at a temperature over the same N events, [B,T,N].

        The events are the V tokens, or the k likeliest and "any other".
        """
        if self.logits is not None:
            student = torch.log_softmax(student_logits.float() / temperature, dim=-1)
            return student, torch.log_softmax(self.logits.float() / temperature, dim=-1)
        if self.sparse is None:
            raise ValueError("a teacher's output has neither logits nor sparse targets")
        student = coarse_log_probs(student_logits.float(), self.sparse.ids, temperature)
        return student, sparse_log_probs(self.sparse, student_logits.shape[-1], temperature)


class Targets(Protocol):
    """A source of targets."""

    def __call__(self, batch: Batch, *, internals: bool) -> TeacherOutput:
        """Return what the teacher says about a batch (its inputs are tokens[:, :-1])."""

    def to(self, device: torch.device) -> object:
        """Move what is in memory to a device."""


class LiveTargets:
    """A teacher in memory; it scores any text."""

    def __init__(self, teacher: GeneratorModel) -> None:
        self.teacher: nn.Module = teacher.eval().requires_grad_(False)
        self.labelled = bool(teacher.config.labels)

    @torch.no_grad()
    def __call__(self, batch: Batch, *, internals: bool) -> TeacherOutput:
        """Run the teacher."""
        options = {"internals": True} if internals else {}
        condition = batch.condition if self.labelled else None
        output = begin(self.teacher, batch.tokens[:, :-1], condition, **options)
        return TeacherOutput(output.logits, None, output.hidden, output.attention, output.values)

    def to(self, device: torch.device) -> object:
        """Move the teacher."""
        return self.teacher.to(device)


class CachedTargets:
    """Targets from disk: no teacher in memory, but only for the text that was cached."""

    def __init__(self, cache: TargetCache, hidden: bool = False) -> None:
        """`hidden` says whether layer outputs are wanted as well."""
        self.cache, self.hidden = cache, hidden

    def __call__(self, batch: Batch, *, internals: bool) -> TeacherOutput:
        """Look the rows up by their place in the stream."""
        T, device = batch.mask.shape[1], batch.tokens.device
        starts = batch.starts.cpu()
        found = self.cache.lookup(starts, T)
        sparse = SparseTargets(*(tensor.to(device) for tensor in found if tensor is not None))
        hidden: tuple[Tensor, ...] = ()
        if self.hidden:
            hidden = tuple(layer.to(device) for layer in self.cache.lookup_hidden(starts, T))
        return TeacherOutput(None, sparse, hidden)

    def to(self, device: torch.device) -> object:
        """Nothing is kept in memory."""
        return self
