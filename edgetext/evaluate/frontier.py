"""Quality against diversity: the referee that decides whether a refined student may replace a distilled one.

Quality is the *LM score*: how likely generated texts are under an n-gram model of real text. Diversity is the
*reverse-LM score*: how likely held-out real texts are under an n-gram model of generated ones. Both are nats
per token, lower is better; one temperature trades one for the other, so only whole sweeps, or wins on both at
once, mean anything (Caccia et al. 2020, "Language GANs Falling Short").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetext.evaluate.kneser_ney import KneserNey
from edgetext.models.base import GeneratorModel, sample_tokens

SAMPLE_LENGTH = 48
"""Most tokens of a sample and of the beginnings of real documents it is compared with."""


FEW_DOCUMENTS = 32
"""With fewer, pieces of documents stand in for beginnings of documents."""
BEYOND_NOISE = 2.8
"""Standard errors by which a score must fall to count: an equal model is then accepted in about 2 % of cases
at ten seeds (two scores, one-sided t with nine degrees of freedom)."""


@dataclass(frozen=True)
class Judgement:
    """One set of texts before the referee; both in nats per token, lower is better."""

    lm_score: float
    """Mean NLL of the texts under the model of real text: quality."""
    reverse_lm_score: float
    """Mean NLL of held-out real texts under the model of the texts: diversity (and quality)."""


def beginnings(
    stream: NDArray[np.unsignedinteger], count: int, length: int = SAMPLE_LENGTH, eos_id: int = 0
) -> list[list[int]]:
    """First `length` tokens of `count` documents, evenly spaced over a token stream.

    A stream of fewer than `FEW_DOCUMENTS` (a book) is filled up with evenly spaced pieces of it.
    """
    starts = np.flatnonzero(np.asarray(stream[:-2]) == eos_id) + 1
    if len(starts) > count:
        starts = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    elif len(starts) < min(count, FEW_DOCUMENTS):
        room = max(len(stream) - length - 1, 1)
        starts = np.union1d(starts, np.linspace(1, room, count - len(starts)).astype(int))
    texts = []
    for start in starts.tolist():
        text = np.asarray(stream[start : start + length]).tolist()
        texts.append(text[: text.index(eos_id)] if eos_id in text else text)
    return [text for text in texts if text]


class Referee:
    """Judges sets of texts against a corpus, by trigram models of both."""

    def __init__(
        self,
        train: NDArray[np.unsignedinteger],
        held_out: NDArray[np.unsignedinteger],
        vocab_size: int,
        suppressed: Sequence[int] = (1,),
        texts: int = 300,
        train_limit: int = 500_000,
    ) -> None:
        """Fit the model of real text on `train_limit` training tokens.

        `suppressed` ids are never sampled; `texts` is the size of a set.
        """
        self.vocab_size, self.suppressed, self.texts = vocab_size, tuple(suppressed), texts
        self.held_out = beginnings(held_out, texts)
        self.human_texts = beginnings(train[-train_limit:], texts)
        ids = np.asarray(train[:train_limit], dtype=np.int64)
        documents = [piece[piece != 0].tolist() for piece in np.split(ids, np.flatnonzero(ids == 0))]
        self.real = KneserNey.fit([d for d in documents if d], vocab_size, end=None)

    def judge(self, texts: Sequence[Sequence[int]]) -> Judgement:
        """Judge one set of token sequences (empty ones count as missing text and are left out)."""
        written = [text for text in texts if len(text)]
        if not written:
            return Judgement(float("inf"), float("inf"))
        generated = KneserNey.fit(written, self.vocab_size, end=None)
        return Judgement(self.real.score(written), generated.score(self.held_out))

    def judge_people(self) -> Judgement:
        """Judge real texts, held-out ones for quality and training ones for diversity: the human row."""
        generated = KneserNey.fit(self.human_texts, self.vocab_size, end=None)
        return Judgement(self.real.score(self.held_out), generated.score(self.held_out))

    def sample(self, model: GeneratorModel, seed: int, temperature: float = 1.0) -> list[list[int]]:
        """Draw one set of texts from a model."""
        return sample_tokens(
            model, self.texts, SAMPLE_LENGTH, seed=seed, temperature=temperature, suppressed=self.suppressed
        )


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may replace the incumbent, and the figures behind it."""

    accepted: bool
    """True: better on quality or diversity beyond the noise, and worse on neither."""
    reason: str
    """One sentence for the report."""
    incumbent: tuple[Judgement, ...]
    """The incumbent's sets, one per seed."""
    challenger: tuple[Judgement, ...]
    """The challenger's sets, same seeds."""


def compare(
    referee: Referee,
    incumbent: GeneratorModel,
    challenger: GeneratorModel,
    seeds: Sequence[int],
    nll: tuple[float, float],
    nll_tolerance: float = 0.01,
) -> Verdict:
    """Judge two models on fresh samples, same seeds, temperature 1.

    The challenger is accepted when, over the seeds, at least one of the two scores is lower by more than
    `BEYOND_NOISE` standard errors of the paired difference, neither is higher by more than one, and its
    held-out NLL (`nll` = incumbent's, challenger's; nats per token) has not risen by more than
    `nll_tolerance`.
    """
    old = tuple(referee.judge(referee.sample(incumbent, seed)) for seed in seeds)
    new = tuple(referee.judge(referee.sample(challenger, seed)) for seed in seeds)
    quality = _paired([a.lm_score for a in old], [b.lm_score for b in new])
    diversity = _paired([a.reverse_lm_score for a in old], [b.reverse_lm_score for b in new])
    rise = nll[1] - nll[0]
    if not all(math.isfinite(x) for x in (*quality, *diversity, rise)):
        return Verdict(False, "kept the distilled weights: a score is not finite", old, new)
    words = (
        f"LM score {quality[0]:+.3f} ± {quality[1]:.3f}, reverse-LM score {diversity[0]:+.3f} ± "
        f"{diversity[1]:.3f}, held-out NLL {rise:+.4f} (nats per token, lower is better)"
    )
    if rise > nll_tolerance:
        return Verdict(False, f"kept the distilled weights: held-out likelihood fell; {words}", old, new)
    if any(change > error for change, error in (quality, diversity)):
        return Verdict(False, f"kept the distilled weights: quality or diversity fell; {words}", old, new)
    if not any(change < -BEYOND_NOISE * error for change, error in (quality, diversity)):
        return Verdict(False, f"kept the distilled weights: no gain beyond the noise; {words}", old, new)
    return Verdict(True, f"took the refined weights: {words}", old, new)


def _paired(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences new - old, and its standard error; at least two pairs."""
    differences = np.subtract(new, old)
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)
