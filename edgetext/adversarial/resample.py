"""A discriminator against a student that stands still: the residual of an energy-based model.

Trained to tell a student's texts from real ones by binary cross-entropy, its logit estimates
log p_real(x) / p_student(x); a student whose texts are drawn again in proportion to exp(logit) moves towards
the data itself (Deng et al. 2020, "Residual energy-based models for text generation", §3). So it is trained
on fresh texts of the student all the time, and its logits are scaled on held-out text at the end (Guo et al.
2017), because an over-sure discriminator only sharpens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetext.adversarial.discriminators import Discriminator
from edgetext.adversarial.objectives import binary_discriminator
from edgetext.adversarial.settings import DiscriminatorConfig
from edgetext.checkpoint import load_tensors, read_json, save_tensors, write_json
from edgetext.errors import CheckpointError, ConfigError
from edgetext.evaluate.frontier import beginnings
from edgetext.models.base import GeneratorModel, sample_tokens
from edgetext.training.loop import Turn
from edgetext.training.settings import OptimizerSettings

FORMAT = "edgetext-discriminator-1"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
POOL_STEPS = 50
"""Steps after which the student writes anew."""
VALIDATION_TEXTS = 1000


@dataclass(frozen=True)
class Rater:
    """A trained discriminator and how texts are given to it."""

    network: Discriminator
    length: int
    """Tokens that it reads of a text, its end included; shorter texts are padded."""
    eos_id: int
    pad_id: int
    scale: float
    """What logits are multiplied by, so that σ(logit) is a probability on held-out text."""
    student: str
    """SHA-256 of the weights of the student it was trained against."""

    def __call__(self, texts: Sequence[Sequence[int]], ended: Sequence[bool]) -> NDArray[np.float64]:
        """Calibrated logits [N] of token sequences without their boundaries."""
        rows = pack(texts, ended, self.length, self.eos_id, self.pad_id)
        return np.asarray(self.logits(rows).double().numpy())

    @torch.no_grad()
    def logits(self, rows: Tensor) -> Tensor:
        """Calibrated logits [N] of rows [N, length] as `pack` lays them."""
        parts = [self.network.eval()(part) for part in rows.split(256)]  # type: ignore[no-untyped-call]
        return torch.cat(parts).float() * self.scale

    def save(self, directory: Path) -> None:
        """Write the directory that `load_rater` reads."""
        save_tensors(directory / WEIGHTS, self.network.state_dict(), {"format": FORMAT})
        described = {k: v for k, v in vars(self).items() if k != "network"}
        shape = {"vocab_size": self.network.embedding.in_features, **self.network.config.to_dict()}
        write_json(directory / CONFIG, {"format": FORMAT, "network": shape, **described})


def load_rater(directory: Path) -> Rater:
    """Read a discriminator's directory. Raises CheckpointError if it is none, or damaged."""
    values = read_json(directory / CONFIG)
    try:
        if values.pop("format") != FORMAT:
            raise CheckpointError(f"{directory} is of another format; train it again: edgetext discriminator")
        shape = values.pop("network")
        vocab_size = shape.pop("vocab_size")
        network = Discriminator(DiscriminatorConfig.from_dict(shape), vocab_size)
        network.load_state_dict(load_tensors(directory / WEIGHTS)[0])
        return Rater(network.eval(), **values)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{directory} is not a discriminator's directory: {error}") from error


def pack(
    texts: Sequence[Sequence[int]], ended: Sequence[bool], length: int, eos_id: int = 0, pad_id: int = 1
) -> Tensor:
    """Token sequences as rows [N, length]: ends marked where the text has one, then padding."""
    rows = torch.full((len(texts), length), pad_id)
    for number, (text, over) in enumerate(zip(texts, ended, strict=True)):
        whole = [*text, eos_id][:length] if over else list(text)[:length]
        rows[number, : len(whole)] = torch.tensor(whole, dtype=torch.int64)
    return rows


def draw_texts(
    model: GeneratorModel, count: int, length: int, seed: int, suppressed: Sequence[int], batch: int = 256
) -> Tensor:
    """Texts of a student as rows [count, length], as `pack` lays them; a text as long as that has no end."""
    texts = sample_tokens(model, count, length, seed=seed, suppressed=suppressed, batch=batch)
    return pack(texts, [len(text) < length for text in texts], length)


def resample(logits: NDArray[np.float64], uniform: float) -> int:
    """Index drawn in proportion to exp(logit): sampling-importance-resampling (Rubin 1988)."""
    weights = np.exp(logits - logits.max())
    return min(int(np.searchsorted(np.cumsum(weights), uniform * weights.sum(), "right")), len(logits) - 1)


class RaterTask:
    """Training of a discriminator against one student, as the loop sees it."""

    def __init__(
        self,
        student: GeneratorModel,
        student_sha256: str,
        config: DiscriminatorConfig,
        train: NDArray[np.unsignedinteger],
        valid: NDArray[np.unsignedinteger],
        *,
        length: int,
        batch_size: int,
        rate: float,
        suppressed: Sequence[int],
        seed: int,
    ) -> None:
        """Real texts are the beginnings of documents of both streams, cut to `length` tokens."""
        self.name, self.student, self.student_sha256 = "discriminator", student.eval(), student_sha256
        self.length, self.batch_size, self.suppressed, self.seed = length, batch_size, tuple(suppressed), seed
        self.real = _documents(train, None, length)
        self.held_out = _documents(valid, VALIDATION_TEXTS, length)
        if len(self.real) < 2 * batch_size:
            raise ConfigError(
                f"the corpus has {len(self.real)} documents to learn from, a step takes {batch_size}; lower "
                f"--batch-size, or cut the corpus finer (--unit)"
            )
        self.network = Discriminator(config, student.config.vocab_size)
        if (
            config.embedding == student.config.embedding
            and config.embeddings == 1
            and not config.spectral_norm
        ):
            with torch.no_grad():  # words that the student finds alike
                self.network.embedding.weight.copy_(student.embedding.weight.T)
        self.module: nn.Module = self.network
        self.players: Mapping[str, nn.Module] = {"discriminator": self.network}
        optimizer = OptimizerSettings(rate, 0.05, beta1=0.5, beta2=0.999)
        self.optimizers: Mapping[str, OptimizerSettings] = {"discriminator": optimizer}
        self.device = torch.device("cpu")
        self._pool: tuple[int, Tensor] = (-1, torch.empty(0))
        self._held_out_written: Tensor | None = None

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the wrapped discriminator; the student follows it to its device."""
        self.module, self.device = players["discriminator"], device
        self.student.to(device)

    def turns(self, step: int) -> Iterable[Turn]:
        """One move."""
        yield Turn("discriminator", lambda part: self.loss(step, part))

    def loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Binary cross-entropy on real texts and as many of the student's."""
        random = np.random.default_rng([self.seed, step, part])
        real = self.real[torch.from_numpy(random.integers(len(self.real), size=self.batch_size))]
        first = (step % POOL_STEPS) * self.batch_size
        written = self._written(step // POOL_STEPS)[first : first + self.batch_size]
        real_logits, fake_logits = self.module(real.to(self.device)), self.module(written.to(self.device))
        told_apart = (real_logits > fake_logits).float().mean().detach()
        return binary_discriminator(real_logits, fake_logits), {"told_apart": told_apart}

    def _written(self, number: int) -> Tensor:
        """The student's texts for `POOL_STEPS` steps: a function of seed and number."""
        if self._pool[0] != number:
            count = POOL_STEPS * self.batch_size
            seed = 7_919 * (self.seed + 1) + number
            texts = draw_texts(self.student, count, self.length, seed, self.suppressed, batch=1024)
            order = np.random.default_rng(seed).permutation(count)  # a batch of one length would tell
            self._pool = (number, texts[torch.from_numpy(order)])
        return self._pool[1]

    def tokens(self) -> int:
        """Tokens of both sides of a step."""
        return 2 * self.batch_size * self.length

    def windows_per_pass(self) -> int:
        """Real texts in one pass."""
        return len(self.real)

    @torch.no_grad()
    def _held_out_logits(self) -> tuple[Tensor, Tensor]:
        if self._held_out_written is None:
            count, seed = len(self.held_out), 104_729 + self.seed
            self._held_out_written = draw_texts(self.student, count, self.length, seed, self.suppressed)
        sides = []
        for rows in (self.held_out, self._held_out_written):
            parts = [self.network(part.to(self.device)).float() for part in rows.split(256)]  # type: ignore[no-untyped-call]
            sides.append(torch.cat(parts).cpu())
        return sides[0], sides[1]

    def validate(self) -> Mapping[str, float]:
        """Cross-entropy of held-out texts (of both sides together), and the share of pairs told apart."""
        real, fake = self._held_out_logits()
        told_apart = float((real[:, None] > fake[None]).float().mean())
        return {"score": float(binary_discriminator(real, fake)), "told_apart": told_apart}

    def save(self, directory: Path) -> None:
        """Scale the logits on held-out text and write the discriminator's directory."""
        self.network.eval()
        scale = fit_scale(*self._held_out_logits())
        rater = Rater(self.network.cpu(), self.length, 0, 1, scale, self.student_sha256)
        rater.save(directory)

    def settings(self) -> dict[str, Any]:
        """What the result depends on, beside the loop."""
        return {
            "network": asdict(self.network.config),
            "length": self.length,
            "batch_size": self.batch_size,
            "rate": self.optimizers["discriminator"].learning_rate,
            "student": self.student_sha256,
        }


def fit_scale(real: Tensor, fake: Tensor) -> float:
    """The factor in [0, 4] on logits with the least binary cross-entropy on held-out texts."""
    candidates = torch.linspace(0, 4, 401)
    losses = [float(binary_discriminator(scale * real, scale * fake)) for scale in candidates]
    return float(candidates[int(np.argmin(losses))])


def _documents(stream: NDArray[np.unsignedinteger], count: int | None, length: int) -> Tensor:
    """Beginnings of documents as rows [N, length]."""
    ends = int((np.asarray(stream) == 0).sum())
    texts = beginnings(stream, ends if count is None else min(count, ends), length)
    return pack(texts, [len(text) < length for text in texts], length)
