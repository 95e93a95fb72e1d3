"""The shape of a generator: one frozen dataclass for all kinds. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from edgetext.errors import ConfigError

Kind = Literal["lstm", "gru", "transformer"]
KINDS: tuple[Kind, ...] = ("lstm", "gru", "transformer")
GATES = {"lstm": 4, "gru": 3}
"""Gates of the recurrent kinds."""
INT8_BLOCKS = (128, 64, 32, 16)
"""Weights that share a scale when exported as 8-bit integers: the largest is used that pads a row by an
eighth at most. Fewer scales read faster, and perplexity does not tell the sizes apart."""

DROPOUTS = ("dropout", "recurrent_dropout", "word_dropout")
"""Probabilities that matter in training only."""
TRAINING_ONLY = {*DROPOUTS, "locked_dropout"}
"""Fields that say how a model is trained, not what it computes."""
_WRITTEN_IF_SET = {"bottleneck", "labels", *TRAINING_ONLY} - {"dropout"}
MOST_LABELS = 256
"""Labels that a generator can be asked for, at most."""


def choose_block(width: int) -> int:
    """Return the largest of `INT8_BLOCKS` to which `width` is padded by an eighth at most, or 32."""
    return next((block for block in INT8_BLOCKS if -width % block <= width // 8), 32)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a generator's parameters and their shapes."""

    kind: Kind
    """``lstm``, ``gru`` or ``transformer`` (decoder-only: pre-RMSNorm, rotary, grouped-query attention,
    SwiGLU)."""
    vocab_size: int
    """V, number of token ids."""
    embedding: int
    """E, width of a token embedding. A Transformer has E == H."""
    hidden: int
    """H, width of the recurrent state or of the residual stream."""
    layers: int
    """L, number of layers."""
    heads: int = 0
    """Query heads (Transformer only)."""
    kv_heads: int = 0
    """Key/value heads, a divisor of `heads` (Transformer only)."""
    ffn: int = 0
    """F, inner width of the SwiGLU feed-forward (Transformer only)."""
    context: int = 0
    """C, most tokens a Transformer can attend to; 0 for LSTM and GRU, whose context has no limit."""
    tied: bool = False
    """Whether the output layer shares the embedding matrix."""
    dropout: float = 0.0
    """Dropout probability in training, on embeddings and between layers."""
    locked_dropout: bool = False
    """Whether a row drops the same units at all its T positions (Gal & Ghahramani 2016; LSTM and GRU)."""
    recurrent_dropout: float = 0.0
    """Share of recurrent weights dropped in training, drawn once a batch (DropConnect, Merity et al. 2018 §3;
    LSTM and GRU)."""
    word_dropout: float = 0.0
    """Share of the vocabulary whose input embeddings are zero for a batch in training (Gal & Ghahramani 2016,
    §4.2; LSTM and GRU)."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies (Transformer only)."""
    norm_eps: float = 1e-5
    """Epsilon of RMSNorm (Transformer only)."""
    bottleneck: int = 0
    """b, inner width of every block between linear layers H → b and b → H (MobileBERT, Sun et al. 2020 §3.1);
    heads and `ffn` then refer to it. 0: none, blocks work at H (Transformer only)."""
    labels: tuple[str, ...] = ()
    """Names of the C labels that a text can be asked to have: the model is conditioned on one. None: it is
    not."""

    def __post_init__(self) -> None:
        """Check every field and every pair of fields that must agree."""
        if self.kind not in KINDS:
            raise ConfigError(f"model kind {self.kind!r} is unknown; use one of {', '.join(KINDS)}")
        for name in ("vocab_size", "embedding", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model {name} is {getattr(self, name)}; it must be at least 1")
        for name in DROPOUTS:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"model {name} is {getattr(self, name)}; it must be in [0, 1)")
        valid = all(isinstance(label, str) and label.strip() for label in self.labels)
        if not valid or len(set(self.labels)) != len(self.labels) or len(self.labels) > MOST_LABELS:
            raise ConfigError(f"model labels must be up to {MOST_LABELS} different names, not {self.labels}")
        if self.kind == "transformer":
            self._check_transformer()
        elif self.heads or self.kv_heads or self.ffn or self.context or self.bottleneck:
            raise ConfigError(
                f"heads, kv_heads, ffn, context and bottleneck belong to a transformer, not to {self.kind}"
            )

    def _check_transformer(self) -> None:
        if self.locked_dropout or self.recurrent_dropout or self.word_dropout:
            raise ConfigError(
                "locked_dropout, recurrent_dropout and word_dropout belong to an lstm or gru; "
                "a transformer has dropout"
            )
        if self.embedding != self.hidden:
            raise ConfigError(
                f"a transformer has embedding == hidden, not {self.embedding} and {self.hidden}"
            )
        if not 0 <= self.bottleneck < self.hidden:
            raise ConfigError(
                f"transformer bottleneck is {self.bottleneck}; it must be below hidden ({self.hidden}), or 0 "
                f"for blocks without one"
            )
        inner = "bottleneck" if self.bottleneck else "hidden"
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"transformer {inner} {self.width} must be a multiple of heads ({self.heads})")
        if self.head_dim % 2:
            raise ConfigError(f"transformer head size {self.head_dim} must be even (rotary pairs)")
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ConfigError(
                f"transformer heads {self.heads} must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.ffn < 1 or self.context < 2:
            raise ConfigError(
                f"a transformer needs ffn ≥ 1 and context ≥ 2, not {self.ffn} and {self.context}"
            )

    @property
    def width(self) -> int:
        """Width at which a Transformer's attention and feed-forward work: b with a bottleneck, else H."""
        return self.bottleneck or self.hidden

    @property
    def head_dim(self) -> int:
        """D, width of one attention head; 0 for LSTM and GRU."""
        return self.width // self.heads if self.heads else 0

    @property
    def gates(self) -> int:
        """G, gates of a recurrent layer: 4 of an LSTM, 3 of a GRU; 0 for a Transformer."""
        return GATES.get(self.kind, 0)

    @property
    def layer_tensors(self) -> int:
        """Tensors of a layer's state: h (LSTM: and c), or keys and values."""
        return 1 if self.kind == "gru" else 2

    @property
    def state_tensors(self) -> int:
        """Tensors of the state: those of every layer, then the condition where there is one."""
        return self.layers * self.layer_tensors + bool(self.labels)

    def parameters(self) -> int:
        """Number of trainable parameters, from the shapes alone."""
        V, E, H, L = self.vocab_size, self.embedding, self.hidden, self.layers
        embeddings = V * E * (1 if self.tied else 2) + len(self.labels) * E
        if self.gates:
            cells = sum(self.gates * H * ((E if layer == 0 else H) + H + 2) for layer in range(L))
            projection = (H * E + E) if H != E else 0
            return embeddings + V + cells + projection
        D, W = self.head_dim, self.width
        attention = W * (self.heads + 2 * self.kv_heads) * D + self.heads * D * W
        bottleneck = 2 * H * W + H if self.bottleneck else 0
        return embeddings + L * (attention + 3 * W * self.ffn + 2 * W + bottleneck) + H

    def int8_bytes(self) -> int:
        """Bytes of the weights as exported with 8-bit integers: matrices at one byte and their scales.

        Products, a GRU's gates too, have a float32 scale per block of a row (`choose_block`), an LSTM's
        gates one per column; biases and norms stay float32.
        """

        def blocks(rows: int, width: int) -> int:
            block = choose_block(width)
            count = -(-width // block)
            return rows * count * (block + 4)

        V, E, H, L = self.vocab_size, self.embedding, self.hidden, self.layers
        embeddings = blocks(V, E) * (1 if self.tied else 2) + 4 * len(self.labels) * E
        if self.gates:
            inputs = (E, *(H for _ in range(L - 1)))
            if self.kind == "lstm":
                cells = sum(4 * H * (width + H) + 4 * (16 * H) for width in inputs)
            else:
                cells = sum(blocks(3 * H, width) + blocks(3 * H, H) + 4 * (6 * H) for width in inputs)
            projection = (blocks(E, H) + 4 * E) if H != E else 0
            return embeddings + 4 * V + cells + projection
        D, W = self.head_dim, self.width
        attention = blocks((self.heads + 2 * self.kv_heads) * D, W) + blocks(W, self.heads * D)
        ffn = blocks(2 * self.ffn, W) + blocks(W, self.ffn)
        bottleneck = blocks(W, H) + blocks(H, W) + 4 * H if self.bottleneck else 0
        rotary = 2 * self.context * (D // 2) * 4
        return embeddings + L * (attention + ffn + 8 * W + bottleneck) + 4 * H + rotary

    def with_vocab(self, vocab_size: int) -> ModelConfig:
        """Return the same shape for another vocabulary size."""
        return replace(self, vocab_size=vocab_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; those that not every shape has only where they are set.

        So a shape without them is written as it was before there were any, and fingerprints of finished
        stages still hold.
        """
        values = asdict(self)
        return {name: value for name, value in values.items() if value or name not in _WRITTEN_IF_SET}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build from JSON values. Raises ConfigError on unknown or missing fields."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"model configuration has unknown fields: {', '.join(unknown)}")
        try:
            return cls(**{**values, "labels": tuple(values.get("labels", ()))})
        except TypeError as error:
            raise ConfigError(f"model configuration is incomplete: {error}") from error
