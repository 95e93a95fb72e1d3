"""What can be judged: a checkpoint directory or a bundle, both as texts and as next-token distributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edgetext.adversarial.resample import Rater, resample
from edgetext.adversarial.train_rater import has_rater, rater_of
from edgetext.distill.directory import find_teachers
from edgetext.distill.model_files import load_any
from edgetext.errors import CheckpointError, ConfigError
from edgetext.evaluate.likelihood import WINDOW
from edgetext.evaluate.texts import Text, read_text
from edgetext.models.base import GeneratorModel, begin, label_rows, sample_tokens
from edgetext.models.ensemble import EnsembleGenerator
from edgetext_runtime import Generator
from edgetext_runtime.options import ChooseBy
from edgetext_runtime.sampling import SamplingParams
from edgetext_runtime.tokenizer import Tokenizer

Floats = NDArray[np.float64]
MOST_TOKENS = 128
"""Tokens of a sample, at most."""
_EVERYTHING = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


class Candidate(Protocol):
    """A model before the referee."""

    name: str
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    """What its texts can be asked to be."""

    def sample(self, count: int, temperature: float, seed: int) -> list[Text]:
        """Draw texts from the start of a document by plain sampling at a temperature; labels take turns."""

    def log_probabilities(self, row: Sequence[int], label: str | None = None) -> Floats:
        """Log-probabilities [T,V] of the token after each of T tokens, from a fresh state.

        Without a `label` a conditioned model is the even mixture of its labels.
        """


def mixture(log_p: Floats, row: Sequence[int]) -> Floats:
    """Log-probabilities [T,V] of an even mixture of C models that gave log_p [C,T,V] of the tokens `row` [T].

    p(x_t | x_<t) = Σ_c p(c | x_<t) p(x_t | x_<t, c), with p(c | x_<t) by Bayes from what was read.
    """
    if len(log_p) == 1:
        return log_p[0]
    read = log_p[:, np.arange(len(row) - 1), list(row[1:])]  # [C,T-1]
    weight = np.concatenate([np.zeros((len(log_p), 1)), read.cumsum(1)], axis=1)  # [C,T]
    weight -= np.logaddexp.reduce(weight, axis=0)
    return np.asarray(np.logaddexp.reduce(weight[..., None] + log_p, axis=0))


class Checkpoint:
    """A model directory, run through torch."""

    def __init__(self, name: str, model: GeneratorModel, tokenizer: Tokenizer) -> None:
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self.labels = model.config.labels

    def sample(self, count: int, temperature: float, seed: int) -> list[Text]:
        """See `Candidate`."""
        rows, most = self._rows(count, temperature, seed)
        return [read_text(self.tokenizer.decode(row), ended=len(row) < most) for row in rows]

    def _rows(self, count: int, temperature: float, seed: int) -> tuple[list[list[int]], int]:
        """Texts as token ids, and the length at which one has no end."""
        most = min(MOST_TOKENS, self.model.config.context or MOST_TOKENS)
        suppressed = self.tokenizer.suppressed
        return sample_tokens(
            self.model, count, most, seed=seed, temperature=temperature, suppressed=suppressed, batch=1000
        ), most

    @torch.no_grad()
    def log_probabilities(self, row: Sequence[int], label: str | None = None) -> Floats:
        """See `Candidate`."""
        count = max(1, len(self.labels)) if label is None else 1
        first = 0 if label is None else self.labels.index(label)
        condition = label_rows(self.model.config, count, first)
        logits = begin(self.model, torch.tensor([row] * count), condition).logits
        return mixture(np.asarray(logits.double().log_softmax(-1).numpy()), row)


class Rated(Checkpoint):
    """A model directory whose texts are chosen among candidates by its run's discriminator, in torch.

    The definition is the device's; the random numbers are others, so the texts are not the same.
    """

    def __init__(self, plain: Checkpoint, rater: Rater, best_of: int, choose_by: ChooseBy) -> None:
        """`choose_by` is ``top`` or ``resample``."""
        super().__init__(f"{plain.name}, {choose_by} of {best_of}", plain.model, plain.tokenizer)
        self.rater, self.best_of, self.choose_by = rater, best_of, choose_by

    def sample(self, count: int, temperature: float, seed: int) -> list[Text]:
        """See `Candidate`."""
        rows, most = self._rows(count * self.best_of, temperature, seed)
        logits = self.rater(rows, [len(row) < most for row in rows]).reshape(count, self.best_of)
        random, texts = np.random.default_rng(seed), []
        for number, own in enumerate(logits):
            chosen = int(own.argmax()) if self.choose_by == "top" else resample(own, random.random())
            row = rows[number * self.best_of + chosen]
            texts.append(read_text(self.tokenizer.decode(row), ended=len(row) < most))
        return texts


class Bundled:
    """A bundle, run by the device's own runtime: what a user of it gets."""

    def __init__(
        self,
        name: str,
        generator: Generator,
        best_of: int = 1,
        choose_by: ChooseBy = "likelihood",
        strength: float = 1.0,
    ) -> None:
        """`best_of`: candidates per text, of which the runtime keeps one; 1: plain sampling.

        `strength`: of the labels (`edgetext_runtime.conditions`).
        """
        self.name = name if best_of == 1 else f"{name}, {choose_by} of {best_of}"
        self.name += "" if strength == 1 else f", strength {strength:g}"
        self.strength = strength
        self.generator, self.tokenizer = generator, generator.tokenizer
        self.best_of, self.choose_by = best_of, choose_by
        self.labels = generator.manifest.labels

    def sample(self, count: int, temperature: float, seed: int) -> list[Text]:
        """See `Candidate`; every text has a seed of its own."""
        limit = self.generator.manifest.context_length
        most = MOST_TOKENS if limit is None else min(MOST_TOKENS, limit - 1)
        texts = []
        for number in range(count):
            written = self.generator.generate(
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                max_new_tokens=most,
                seed=(seed * 1_000_003 + number) * 1009,
                best_of=self.best_of,
                choose_by=self.choose_by,
                label=self.labels[number % len(self.labels)] if self.labels else None,
                label_strength=self.strength,
            )
            texts.append(read_text(written.text, ended=written.finish_reason == "eos"))
        return texts

    def log_probabilities(self, row: Sequence[int], label: str | None = None) -> Floats:
        """See `Candidate`."""
        session, parts, count = self.generator.session, [], len(self.labels)
        conditions = self.strength * np.eye(count, dtype=np.float32) + (1 - self.strength) / max(1, count)
        for number in range(max(1, count)) if label is None else [self.labels.index(label)]:
            condition = conditions[number] if count else None
            step = session.run(
                np.array([row], np.int64),
                session.new_state(1, condition),
                sampling=_EVERYTHING,
                uniform=np.zeros(1, np.float32),
                positions=np.arange(len(row)),
                want_logits=True,
            )
            if step.logits is None:
                raise CheckpointError(f"{self.name} gives no logits; export it again")
            logits = step.logits[0].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            parts.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
        return mixture(np.array(parts), row)


def open_candidate(
    path: Path, best_of: int = 1, choose_by: ChooseBy = "likelihood", strength: float = 1.0
) -> Candidate:
    """Open a bundle (.etx), a run (its accepted student), or a model directory of a run.

    `strength`: of a bundle's labels.

    Raises CheckpointError or BundleError if it holds no model, ConfigError if candidates cannot be chosen.
    """
    if path.suffix == ".etx" or (path / "manifest.json").is_file():
        return Bundled(str(path), Generator.load(str(path), threads=1), best_of, choose_by, strength)
    if not path.is_dir():
        raise CheckpointError(f"{path} is neither a bundle (.etx) nor a directory; check the path")
    student = path / "student"
    models, tokenizer = find_teachers(student if student.is_dir() else path)
    members = [load_any(model) for model in models]
    whole = members[0] if len(members) == 1 else EnsembleGenerator(members)
    if strength != 1:
        raise ConfigError(
            f"--label-strength is for bundles (.etx), and {path} is a checkpoint; export it first"
        )
    plain = Checkpoint(str(path), whole, Tokenizer.from_json(tokenizer))
    if best_of == 1:
        return plain
    if choose_by == "likelihood" or not has_rater(path):
        raise ConfigError(
            f"{path} has no discriminator to choose by; train one (edgetext discriminator {path}), or give a "
            f"bundle, whose runtime can also choose by likelihood"
        )
    return Rated(plain, rater_of(path), best_of, choose_by)


def token_rows(tokenizer: Tokenizer, document: str) -> list[list[int]]:
    """A document as rows of at most `WINDOW` targets, each with the token before it."""
    ids = [tokenizer.eos_id, *tokenizer.encode(document), tokenizer.eos_id]
    return [ids[start : start + WINDOW + 1] for start in range(0, len(ids) - 1, WINDOW)]


def document_nll(model: Candidate, document: str, label: str | None = None) -> Floats:
    """Negative log-likelihood of every token of a document and of its end, nats; given its label, if any."""
    parts = []
    for row in token_rows(model.tokenizer, document):
        log_p = model.log_probabilities(row[:-1], label)
        parts.append(-log_p[np.arange(len(row) - 1), row[1:]])
    return np.concatenate(parts)


def likeness(model: Candidate, teacher: Candidate, documents: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Per document: tokens [N], agreements of the likeliest token [N], and KL(teacher ‖ model) in nats [N].

    Raises ConfigError if the two read other ids.
    """
    if _vocabulary(model.tokenizer) != _vocabulary(teacher.tokenizer):
        raise ConfigError(
            f"--teacher {teacher.name} and {model.name} have different vocabularies, so their next tokens "
            f"cannot be compared; give the teacher that the student was distilled from"
        )
    counts, same, kl = [], [], []
    for document in documents:
        n, agreed, divergence = 0, 0.0, 0.0
        for row in token_rows(model.tokenizer, document):
            ours, theirs = model.log_probabilities(row[:-1]), teacher.log_probabilities(row[:-1])
            n += len(row) - 1
            agreed += float((ours.argmax(-1) == theirs.argmax(-1)).sum())
            divergence += float((np.exp(theirs) * (theirs - ours)).sum())
        counts.append(n)
        same.append(agreed)
        kl.append(divergence)
    return np.array(counts, float), np.array(same), np.array(kl)


def _vocabulary(tokenizer: Tokenizer) -> list[bytes]:
    """What every id stands for."""
    return [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
