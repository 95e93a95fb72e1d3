"""Decoder-only Transformer: pre-RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetext.models.base import GeneratorModel, Output, State
from edgetext.models.config import ModelConfig


def rotary_tables(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables [length, D/2] of rotary embedding (Su et al. 2021)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # [D/2]
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency[None, :]  # [length, D/2]
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x [B,heads,T,D]; the two halves of D form the pairs."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # [T, D/2]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def per_query_head(x: Tensor, heads: int) -> Tensor:
    """Repeat keys or values [B,K,T,D] to one per query head, [B,heads,T,D]."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


class Attended(NamedTuple):
    """What attention, or a block around it, gives."""

    x: Tensor
    """[B,T,H]; inside a bottleneck [B,T,b], as for everything that works at its width."""
    keys: Tensor
    """Of the past and the present, rotated, [B,K,P+T,D]."""
    values: Tensor
    """Of the past and the present, [B,K,P+T,D]."""
    scores: Tensor | None = None
    """Only with ``internals``: q·k/sqrt(D) of every query head, not masked, [B,heads,T,T]."""


def _plain_is_faster(q: Tensor) -> bool:
    """Whether to write attention out.

    On a CPU the fused kernel's backward pass in bf16 takes four times as long at the lengths of training.
    """
    return (
        q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and q.shape[2] <= 128
    )


class Attention(nn.Module):
    """Causal grouped-query attention (Ainslie et al. 2023) with one packed Q/K/V projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.output = nn.Linear(self.heads * self.head_dim, config.width, bias=False)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: tuple[Tensor, Tensor] | None,
        internals: bool = False,
    ) -> Attended:
        """Attend x [B,T,H] to itself and the past; scores come with `internals`, where there is no past."""
        B, T, _ = x.shape
        heads, K, D = self.heads, self.kv_heads, self.head_dim
        q, k, v = self.qkv(x).split([heads * D, K * D, K * D], dim=-1)
        q = rotate(q.view(B, T, heads, D).transpose(1, 2), cos, sin)  # [B,heads,T,D]
        k = rotate(k.view(B, T, K, D).transpose(1, 2), cos, sin)  # [B,K,T,D]
        v = v.view(B, T, K, D).transpose(1, 2)  # [B,K,T,D]
        mask = None
        if past is not None:
            P = past[0].shape[2]
            k = torch.cat([past[0].to(k.dtype), k], dim=2)
            v = torch.cat([past[1].to(v.dtype), v], dim=2)
            mask = torch.ones(T, P + T, dtype=torch.bool, device=x.device).tril(P)
        plain = mask is None and _plain_is_faster(q)
        scores = None
        if plain or (internals and past is None):
            scores = q @ per_query_head(k, heads).transpose(2, 3) * D**-0.5  # [B,heads,T,T]
        if plain and scores is not None:
            future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
            weights = scores.masked_fill(future, -torch.inf).softmax(-1, dtype=torch.float32).to(v.dtype)
            mixed = weights @ per_query_head(v, heads)  # [B,heads,T,D]
        else:
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=heads != K
            )  # [B,heads,T,D]
        scores = scores if internals and past is None else None
        return Attended(self.output(mixed.transpose(1, 2).reshape(B, T, heads * D)), k, v, scores)


class FeedForward(nn.Module):
    """SwiGLU feed-forward (Shazeer 2020) with gate and up projections in one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,T,H] to [B,T,H]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One pre-norm residual block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: tuple[Tensor, Tensor] | None,
        internals: bool = False,
    ) -> Attended:
        """Map [B,T,H] to [B,T,H], with this block's keys and values, and scores if asked for."""
        x = x.to(self.ffn_norm.weight.dtype)  # the residual stream and its norms stay in full precision
        attended = self.attention(self.attention_norm(x), cos, sin, past, internals)
        x = x + self.dropout(attended.x)
        return attended._replace(x=x + self.dropout(self.ffn(self.ffn_norm(x))))


class BottleneckBlock(Block):
    """A block at inner width b between H → b and b → H (MobileBERT, Sun et al. 2020 §3.1, Fig. 1c).

    Differences from the paper: pre-RMSNorm instead of LayerNorm after the sum, one feed-forward instead of
    four, and queries and keys come from the same b-wide input as the values (no key-query sharing).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.enter_norm = nn.RMSNorm(config.hidden, eps=config.norm_eps)
        self.enter = nn.Linear(config.hidden, config.width, bias=False)
        self.leave = nn.Linear(config.width, config.hidden, bias=False)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: tuple[Tensor, Tensor] | None,
        internals: bool = False,
    ) -> Attended:
        """See `Block.forward`; x [B,T,H], heads at width b."""
        x = x.to(self.enter_norm.weight.dtype)
        inner = self.enter(self.enter_norm(x))  # [B,T,b]
        attended = super().forward(inner, cos, sin, past, internals)
        return attended._replace(x=x + self.leave(attended.x))


class TransformerGenerator(GeneratorModel):
    """Llama-shaped generator with a key/value cache as its state."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden)
        block = BottleneckBlock if config.bottleneck else Block
        self.blocks = nn.ModuleList([block(config) for _ in range(config.layers)])
        self.norm = nn.RMSNorm(config.hidden, eps=config.norm_eps)
        self.head = nn.Linear(config.hidden, config.vocab_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        cos, sin = rotary_tables(config.context, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()
        self.add_condition()
        if config.tied:
            self.head.weight = self.embedding.weight

    def _initialise(self) -> None:
        """Normal(0, 0.02), residual outputs scaled by 1/sqrt(2L) (Radford et al. 2019)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        scale = (2 * self.config.layers) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "ffn.down.weight", "leave.weight")):
                parameter.data.mul_(scale)

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """See `GeneratorModel.forward`. Raises ValueError past the context length.

        `internals` adds, where `state` is None, every layer's attention scores [B,heads,T,T] and its values
        [B,heads,T,D], those of shared key/value heads repeated for every query head.
        """
        x, carried = self.conditioned(self.embed(tokens, embeddings), condition, state)  # [B,T,H]
        x = self.dropout(x)
        start = 0 if state is None else state[0].shape[2]
        end = start + x.shape[1]
        if end > self.config.context:
            raise ValueError(f"{end} tokens exceed the context of {self.config.context}")
        cos, sin = self.cos[start:end], self.sin[start:end]
        hidden = [x]
        new_state: list[Tensor] = []
        attention: list[Tensor] = []
        values: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            past = None if state is None else (state[2 * index], state[2 * index + 1])
            x, keys, value, scores = block(x, cos, sin, past, internals)
            new_state += [keys, value]
            hidden.append(x)
            if scores is not None:
                attention.append(scores)
                values.append(per_query_head(value, self.config.heads))
        logits = self.head(self.norm(x))
        return Output(logits, tuple(hidden), (*new_state, *carried), tuple(attention), tuple(values))
