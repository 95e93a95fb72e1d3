"""Settings shared by every training. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgetext.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]
OptimizerKind = Literal["adamw", "adam", "lookahead"]
Schedule = Literal["cosine", "exponential", "plateau", "constant"]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov & Hutter 2019) or its kin, with warm-up, a schedule and clipping."""

    learning_rate: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices only (never on biases, norms and embeddings)."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.99
    """Decay of the second moment."""
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    kind: OptimizerKind = "adamw"
    """``adamw``, ``adam`` (without decay), or ``lookahead`` (around AdamW; Zhang et al. 2019)."""
    schedule: Schedule = "cosine"
    """After the warm-up: down to the final rate by a ``cosine`` or ``exponential``ly, ``constant``, or halved
    after two validations without gain and again after two more, until one gains (``plateau``)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ConfigError(f"learning rate is {self.learning_rate}; it must be positive")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigError(f"AdamW betas are {self.beta1}, {self.beta2}; both must be in [0, 1)")
        if not self.clip_norm > 0:
            raise ConfigError(f"clip norm is {self.clip_norm}; it must be positive")


@dataclass(frozen=True)
class LoopSettings:
    """How long and how a training runs."""

    steps: int
    """Optimiser steps."""
    batch_size: int = 32
    """Windows per optimiser step, over all processes and accumulation parts."""
    sequence_length: int = 96
    """T, tokens predicted per window."""
    accumulation: int = 1
    """Parts into which a process's share of a step's batch is split to save memory."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    final_rate: float = 0.05
    """Learning rate at the end of the cosine, as a share of the peak."""
    validate_every: int = 100
    """Steps between validations."""
    patience: int = 0
    """Validations without a better score before stopping early; 0 never stops early."""
    checkpoint_every: int = 100
    """Steps between resumable checkpoints."""
    precision: Precision = "auto"
    """``bf16``, ``fp32``, or ``auto``: bf16 where the device computes it natively, else fp32."""
    compile: bool = False
    """Whether Transformers are compiled with torch.compile (an LSTM layer is one fused kernel already)."""
    shard: bool = False
    """Whether teachers are split over the processes, read or trained; over one process there is no split."""
    seed: int = 0
    """Seed of everything random in this training."""

    def __post_init__(self) -> None:
        """Check the ranges and the pairs."""
        for name in (
            "steps",
            "batch_size",
            "sequence_length",
            "accumulation",
            "validate_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1"
                )
        if self.patience < 0:
            raise ConfigError(f"--patience is {self.patience}; it must be at least 0 (0: never stop early)")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"--batch-size {self.batch_size} is not a multiple of --accumulation {self.accumulation}; "
                f"change one of them"
            )
        if self.compile and self.shard:
            raise ConfigError("--compile and --shard do not go together; leave one of them out")

    def parts(self, processes: int = 1) -> int:
        """Parts of a step's batch over all processes.

        One process with accumulation 2 and two with accumulation 1 see the same parts, and so give the same
        result. Raises ConfigError if the batch cannot be cut into that many.
        """
        parts = self.accumulation * processes
        if self.batch_size % parts:
            raise ConfigError(
                f"--batch-size {self.batch_size} is not a multiple of {parts} ({processes} processes × "
                f"--accumulation {self.accumulation}); change it, --accumulation, or the launcher's "
                f"--num_processes"
            )
        return parts
