"""The rules of an adversarial refinement, and the shape of its discriminator. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from edgetext.errors import ConfigError
from edgetext.training.settings import OptimizerKind, Schedule

HEADS = 4
"""Attention heads of a Transformer discriminator."""
MOST_PLACES = 512
"""Most tokens that a Transformer discriminator reads."""

Trunk = Literal["cnn", "lstm", "lstm-cnn", "transformer"]
Minibatch = Literal["none", "discrimination", "deviation"]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The shape of a discriminator."""

    kind: Trunk = "cnn"
    """What reads the text: ``cnn``, ``lstm``, ``lstm-cnn`` or ``transformer``."""
    embedding: int = 64
    """E, width of a token embedding; 0: that of the student."""
    embeddings: int = 1
    """Embeddings of its own that a CNN reads side by side (RelGAN's multiple representations)."""
    hidden: int = 64
    """Filters per width of a CNN, units per direction of an LSTM, width of a Transformer."""
    layers: int = 1
    """Layers of an LSTM or Transformer."""
    dropout: float = 0.2
    """Dropout after the embedding and before the last layer, in training."""
    minibatch: Minibatch = "none"
    """What it sees of the rest of the batch: nothing, Salimans' discrimination, or Karras' deviation."""
    spectral_norm: bool = False
    """Whether every matrix is held at spectral norm 1 (Miyato et al. 2018)."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        _check_types(self, "discriminator")
        if self.kind not in get_args(Trunk):
            raise ConfigError(
                f"discriminator {self.kind!r} is unknown; use one of {', '.join(get_args(Trunk))}"
            )
        if self.minibatch not in get_args(Minibatch):
            raise ConfigError(
                f"discriminator minibatch {self.minibatch!r} is unknown; use {', '.join(get_args(Minibatch))}"
            )
        for name, least in (("embedding", 0), ("embeddings", 1), ("hidden", 1), ("layers", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"discriminator {name} is {getattr(self, name)}; it must be at least {least}"
                )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"discriminator dropout is {self.dropout}; it must be in [0, 1)")
        if self.kind != "cnn" and self.embeddings > 1:
            raise ConfigError(f"several embeddings are a cnn's; a {self.kind} discriminator has one")
        if self.kind == "transformer" and self.hidden % HEADS:
            raise ConfigError(f"a transformer discriminator's hidden must be a multiple of {HEADS}")

    def against(self, student_embedding: int) -> DiscriminatorConfig:
        """Return the shape against a student whose token embedding has this width."""
        return replace(self, embedding=self.embedding or student_embedding)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DiscriminatorConfig:
        """Build from JSON or TOML values. Raises ConfigError on unknown fields."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"discriminator is {values!r}; it must be a table: [discriminator]")
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise ConfigError(f"a discriminator has no {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


Gradient = Literal[
    "gumbel",
    "gumbel-soft",
    "reinforce-rollouts",
    "reinforce-dense",
    "soft",
    "professor",
    "selected",
    "resampled",
]
GRADIENTS: Mapping[str, str] = {
    "gumbel": "Gumbel-softmax, one-hot forwards and relaxed backwards (Jang et al. 2017)",
    "gumbel-soft": "Gumbel-softmax, relaxed both ways (Kusner & Hernández-Lobato 2016)",
    "reinforce-rollouts": "REINFORCE, every token worth what its completions are (SeqGAN, Yu et al. 2017)",
    "reinforce-dense": "REINFORCE, a reward per token and a learned baseline (ScratchGAN, 2019)",
    "soft": "distributions of teacher and student on real text, no sampling",
    "professor": "hidden states on real and on own text (professor forcing, Lamb et al. 2016)",
    "selected": "likelihood of the own text that the discriminator rates highest (SelfGAN, 2021)",
    "resampled": "likelihood of own text weighted by exp(logit) of a trained discriminator (residual EBM)",
}
"""Ways from the discriminator to the student."""
OBJECTIVE_NAMES = ("minimax", "non-saturating", "hinge", "relativistic", "wgan-gp")


@dataclass(frozen=True)
class RefineSettings:
    """The rules of the adversarial game."""

    name: str = "relgan"
    """What the rules are called."""
    gradient: Gradient = "gumbel"
    """How the discriminator's opinion reaches the student."""
    objective: str = "relativistic"
    """What the two minimise."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Its shape."""
    prefix: int = 8
    """Real tokens given before a continuation; with windows by document always the start alone."""
    length: int = 24
    """Tokens the student writes after them."""
    rollouts: int = 48
    """Most texts on each side of the discriminator, cut from the windows of one step (or part of one)."""
    candidates: int = 4
    """Texts that ``selected`` chooses from and ``resampled`` weighs against each other; completions per token
    of ``reinforce-rollouts``."""
    adversarial_weight: float = 0.1
    """Weight of the adversarial loss beside the distillation loss."""
    anchor_every: int = 1
    """The distillation loss is part of every so many steps of the student (MLE/KD interleaving); 0: of none.
    ``resampled`` keeps near the distilled student by itself."""
    matching: float = 0.0
    """Share of feature matching in the student's adversarial loss."""
    r1: float = 0.0
    """Weight of the R1 penalty on the discriminator."""
    discount: float = 0.9
    """What a later token's reward counts for an earlier one (``reinforce-dense``)."""
    final_beta: float = 2.0
    """Inverse Gumbel temperature at the end; it rises exponentially from about 1."""
    discriminator_rate: float = 1e-3
    """Peak learning rate of the discriminator."""
    discriminator_steps: int = 1
    """Moves of the discriminator for each of the student's."""
    discriminator_warmup: int = 20
    """First steps in which the adversarial loss does not yet reach the student; a fifth of them at most.
    ``resampled``: most steps of the discriminator's own training, before the first of the student's."""
    optimizer: OptimizerKind = "adamw"
    """Of both players: ``adamw``, ``adam`` (no decay) or ``lookahead`` (around AdamW)."""
    beta1: float = 0.5
    """Adam's first decay, of the discriminator."""
    schedule: Schedule = "cosine"
    """Learning rate of both players: ``cosine``, ``exponential``, ``plateau`` or ``constant``."""

    def __post_init__(self) -> None:
        """Check types, ranges and what cannot go together."""
        _check_types(self, "refine")
        if self.prefix < 1 or self.rollouts < 1:
            raise ConfigError(f"refine prefix and rollouts must be ≥ 1, not {self.prefix}, {self.rollouts}")
        if self.length < 5:
            raise ConfigError(f"refine length is {self.length}; the widest convolution needs at least 5")
        if self.adversarial_weight < 0 or self.final_beta < 1:
            raise ConfigError("the refine weight must be ≥ 0 and the final inverse temperature ≥ 1")
        for what, value, known in (
            ("gradient", self.gradient, tuple(GRADIENTS)),
            ("objective", self.objective, OBJECTIVE_NAMES),
            ("optimizer", self.optimizer, get_args(OptimizerKind)),
            ("schedule", self.schedule, get_args(Schedule)),
        ):
            if value not in known:
                raise ConfigError(f"refine {what} {value!r} is unknown; use one of {', '.join(known)}")
        for name, least in (("candidates", 1), ("anchor_every", 0), ("discriminator_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"refine {name} is {getattr(self, name)}; it must be at least {least}")
        if not (0 <= self.matching <= 1 and self.r1 >= 0 and 0 <= self.discount <= 1):
            raise ConfigError("refine matching and discount must be in [0, 1], and r1 at least 0")
        if not (self.discriminator_rate > 0 and 0 <= self.beta1 < 1 and self.discriminator_warmup >= 0):
            raise ConfigError(
                "refine discriminator_rate must be above 0, beta1 in [0, 1), and discriminator_warmup at "
                "least 0"
            )
        self._check_pairs()

    def _check_pairs(self) -> None:
        kind, likelihood = self.discriminator.kind, ("selected", "resampled")
        if self.gradient == "resampled" and self.discriminator_warmup < 1:
            raise ConfigError(
                "resampled needs a discriminator that has been trained; set discriminator_warmup to its steps"
            )
        if self.gradient == "resampled" and self.r1:
            raise ConfigError("R1 is for games; the discriminator of resampled stops early; set r1 to 0")
        if self.gradient == "reinforce-dense" and kind not in ("lstm", "transformer"):
            raise ConfigError(
                f"reinforce-dense rates every token by what came before it, which a {kind} discriminator "
                f"cannot; use kind lstm or transformer"
            )
        if self.gradient == "reinforce-dense" and self.discriminator.minibatch != "none":
            raise ConfigError("reinforce-dense rates tokens, minibatch layers see texts; use minibatch none")
        if self.gradient in (*likelihood, "reinforce-rollouts", "reinforce-dense") and self.matching:
            raise ConfigError(
                f"feature matching needs a gradient through the discriminator, which {self.gradient} has "
                f"not; set matching to 0"
            )
        if self.gradient == "resampled" and self.objective not in ("minimax", "non-saturating"):
            raise ConfigError(
                f"resampled needs logits that estimate a ratio of densities, which {self.objective} does not "
                f"give; use the objective non-saturating"
            )
        if self.gradient in likelihood and self.candidates < 2:
            raise ConfigError(f"{self.gradient} chooses among candidates; set candidates to 2 or more")
        if kind == "transformer" and self.prefix + self.length > MOST_PLACES:
            raise ConfigError(
                f"a transformer discriminator reads {MOST_PLACES} tokens, refine prefix and length are "
                f"{self.prefix + self.length}; lower them"
            )
        if (self.r1 or self.objective == "wgan-gp") and kind in ("lstm", "lstm-cnn"):
            raise ConfigError(
                f"R1 and WGAN-GP need second derivatives, which fused LSTM kernels do not have; use a cnn or "
                f"transformer discriminator with them, not {kind}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the rules as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RefineSettings:
        """Build from JSON or TOML values. Raises ConfigError on unknown fields."""
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise ConfigError(f"a refinement has no {', '.join(unknown)}; see `edgetext refinements --toml`")
        shape = values.get("discriminator", {})
        return cls(**{**values, "discriminator": DiscriminatorConfig.from_dict(shape)})


def _check_types(settings: Any, what: str) -> None:
    """Raise ConfigError unless every number and switch is one, as TOML files may say anything."""
    for each in fields(settings):
        value, known = getattr(settings, each.name), str(each.type)
        if known == "float":
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        elif known == "int":
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = not (known in ("bool", "str") and type(value).__name__ != known)
        if not fits:
            names = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}
            raise ConfigError(f"{what} {each.name} is {value!r}; it must be {names[known]}")
