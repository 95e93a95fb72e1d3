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
v_0, … each [B,K,T,D]."""


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

    Subclasses implement `forward`. `condition` is reserved for conditioned generators; an unconditioned
    model refuses one rather than ignoring it.
    """

    config: ModelConfig
    embedding: nn.Embedding

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

    def embed(self, tokens: Tensor | None, embeddings: Tensor | None, condition: Tensor | None) -> Tensor:
        """Return input embeddings [B,T,E] from ids or from given (soft) embeddings."""
        if condition is not None:
            raise ValueError(f"this {self.config.kind} generator is unconditioned; condition must be None")
        if (tokens is None) == (embeddings is None):
            raise ValueError("give exactly one of tokens and embeddings")
        if embeddings is not None:
            return embeddings
        return self.embedding(tokens)

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
) -> list[list[int]]:
    """Draw `count` texts of at most `length` tokens by ancestral sampling, each started from `eos_id`.

    `suppressed` ids (padding, unknown words) are never drawn. Returns the token ids without the leading and
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
        state: State | None = None
        draws = torch.rand(length, B, 1, generator=random)  # all at once: an early end changes no later text
        written = torch.full((B, length), eos_id, dtype=torch.int64, device=device)
        rows = torch.arange(B, device=device)  # those that are still being written
        for step, draw in enumerate(draws):
            output = model(token, state)
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
