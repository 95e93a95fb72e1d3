"""What every generator is: tokens (or embeddings) and a state in, logits and a state out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgetext.models.config import ModelConfig

State = tuple[Tensor, ...]
"""A generator's memory. LSTM: h_0, c_0, h_1, c_1, … each [B,H]; GRU: h_0, h_1, … likewise. Transformer: k_0,
v_0, … each [B,K,T,D]. Of a conditioned generator the condition comes last, [B,C]."""


class Output(NamedTuple):
    """Result of one forward pass over T positions."""

    logits: Tensor
    """[B,T,V], unnormalised log-probabilities of the next token."""
    hidden: tuple[Tensor, ...]
    """L + 1 tensors: the embedding output, then each layer's output, each [B,T,·]."""
    state: State
    """State after the last position; give it to the next call to continue."""
    attention: tuple[Tensor, ...] = ()
    """Only with ``internals``, of a Transformer: per layer the scores before softmax, q·k/sqrt(D), each
    [B,heads,T,T]; what lies in a position's future is not masked out."""
    values: tuple[Tensor, ...] = ()
    """Only with ``internals``, of a Transformer: per layer the attention values [B,heads,T,D]."""


class GeneratorModel(nn.Module):
    """Base of all generators.

    Subclasses implement `forward`. A generator whose configuration has labels is conditioned on one: a text
    begins with a `condition` [B,C] of weights (1 for the label, 0 for all others; what others mean, says
    `edgetext_runtime.conditions`), which the state then carries. Its product with the table `condition` is
    added to the embedding of every token. An unconditioned model refuses a condition rather than ignoring it.
    """

    config: ModelConfig
    embedding: nn.Embedding
    condition: nn.Linear

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """Run T positions. Give `tokens` [B,T] (int64) or, for soft tokens, `embeddings` [B,T,E].

        `internals` asks for attention scores and values too, where a model has them and `state` is None.
        """
        raise NotImplementedError

    def add_condition(self) -> None:
        """Make the table of a conditioned generator, zeros at first; called by subclasses."""
        config = self.config
        if config.labels:
            self.condition = nn.Linear(len(config.labels), config.embedding, bias=False)
            nn.init.zeros_(self.condition.weight)

    def embed(self, tokens: Tensor | None, embeddings: Tensor | None) -> Tensor:
        """Return input embeddings [B,T,E] from ids or from given (soft) embeddings."""
        if (tokens is None) == (embeddings is None):
            raise ValueError("give exactly one of tokens and embeddings")
        return self.embedding(tokens) if embeddings is None else embeddings

    def conditioned(
        self, x: Tensor, condition: Tensor | None, state: State | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Add the condition, given or of the state, to x [B,T,E]; returns both, the condition for the state.

        Raises ValueError for a condition where the model has no labels, and for none where it has.
        """
        labels = self.config.labels
        if not labels:
            if condition is not None:
                raise ValueError(
                    f"this {self.config.kind} generator is unconditioned; condition must be None"
                )
            return x, ()
        if condition is None and state is not None:
            condition = state[-1]
        if condition is None or condition.shape != (x.shape[0], len(labels)):
            given = None if condition is None else list(condition.shape)
            raise ValueError(f"condition is {given}; this generator begins with weights [B,C] of {labels}")
        condition = condition.to(x.dtype)
        added = condition @ self.condition.weight.T  # not a linear layer, whose weights may be quantised
        return x + added.unsqueeze(1), (condition,)

    def embed_distribution(self, probabilities: Tensor) -> Tensor:
        """Expected embedding [B,T,E] of token distributions [B,T,V] (soft tokens, Gumbel-softmax)."""
        return probabilities @ self.embedding.weight.to(probabilities.dtype)

    def save(self, directory: Path) -> None:
        """Write a model directory."""
        from edgetext.checkpoint import save_model

        save_model(directory, self)

    def parameters_count(self) -> int:
        """Number of trainable parameters, shared ones counted once."""
        return sum(p.numel() for p in self.parameters())


def begin(model: nn.Module, tokens: Tensor, condition: Tensor | None, **options: bool) -> Output:
    """Run tokens [B,T] from the start of a text; `condition` [B,C] where the model takes one."""
    if condition is None:
        output: Output = model(tokens, **options)
    else:
        output = model(tokens, condition=condition.to(tokens.device), **options)
    return output


def label_rows(config: ModelConfig, count: int, first: int = 0) -> Tensor | None:
    """Conditions [count,C] that take a generator's labels in turn, from the `first`; None if it has none."""
    if not config.labels:
        return None
    return torch.eye(len(config.labels))[torch.arange(first, first + count) % len(config.labels)]


@torch.no_grad()
def sample_tokens(
    model: GeneratorModel,
    count: int,
    length: int,
    *,
    seed: int,
    temperature: float = 1.0,
    eos_id: int = 0,
    suppressed: Sequence[int] = (1,),
    batch: int = 256,
    condition: Tensor | None = None,
) -> list[list[int]]:
    """Draw `count` texts of at most `length` tokens by ancestral sampling, each started from `eos_id`.

    `suppressed` ids (padding, unknown words) are never drawn. A conditioned generator's texts have the
    `condition` [C]; without one they take its labels in turn. Returns the token ids without the leading and
    the final end token. Deterministic for a seed: the uniform draws come from a generator of its own, so no
    other random stream is touched.
    """
    device = next(model.parameters()).device
    random = torch.Generator(device="cpu").manual_seed(seed)
    was_training = model.training
    model.eval()
    texts: list[list[int]] = []
    while len(texts) < count:
        B = min(batch, count - len(texts))
        token = torch.full((B, 1), eos_id, dtype=torch.int64, device=device)
        begun = label_rows(model.config, B, len(texts)) if condition is None else condition.expand(B, -1)
        state: State | None = None
        draws = torch.rand(length, B, 1, generator=random)  # all at once: an early end changes no later text
        written = torch.full((B, length), eos_id, dtype=torch.int64, device=device)
        rows = torch.arange(B, device=device)  # those that are still being written
        for step, draw in enumerate(draws):
            output = model(token, state) if state else begin(model, token, begun)
            state = output.state
            logits = output.logits[:, -1].float() / temperature  # [rows,V]
            logits[:, list(suppressed)] = -torch.inf
            p = logits.softmax(-1)
            cumulative = p.cumsum(-1)
            uniform = draw.to(device)[rows] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, uniform, right=True).clamp_max(p.shape[-1] - 1)
            written[rows, step] = token[:, 0]
            unfinished = (written[rows, : step + 1] != eos_id).all(1)
            if not unfinished.any():
                break
            if int(unfinished.sum()) <= len(rows) // 2:
                rows, token = rows[unfinished], token[unfinished]
                state = tuple(tensor[unfinished] for tensor in state)
        lines = written.tolist()
        texts += [line[: line.index(eos_id)] if eos_id in line else line for line in lines]
    model.train(was_training)
    return texts
