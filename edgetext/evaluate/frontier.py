"""Quality against diversity: the referee that decides whether a refined student may replace a distilled one.

Quality is the *LM score*: how likely generated texts are under an n-gram model of real text. Diversity is the
*reverse-LM score*: how likely held-out real texts are under an n-gram model of generated ones. Both are nats
per token, lower is better; temperature trades one for the other, so one is compared where the other is the
same, over whole sweeps (Caccia et al. 2020, "Language GANs Falling Short").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetext.evaluate.dominance import Sweep, matched_gains, standard_error
from edgetext.evaluate.kneser_ney import KneserNey
from edgetext.models.base import GeneratorModel, sample_tokens

SAMPLE_LENGTH = 48
"""Most tokens of a sample and of the beginnings of real documents it is compared with."""


FEW_DOCUMENTS = 32
"""With fewer, pieces of documents stand in for beginnings of documents."""
BEYOND_NOISE = 2.8
"""Standard errors that a gain must have to count: an equal model is then accepted in about 2 % of cases at
five seeds (one-sided t with four degrees of freedom)."""
VERDICT_SWEEP = (0.7, 0.85, 1.0, 1.15)
"""Temperatures at which two models are compared."""


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
    """True: more diverse at the same quality, beyond the noise, and nowhere less."""
    reason: str
    """One sentence for the report."""
    temperatures: tuple[float, ...]
    """Of the sweeps."""
    incumbent: tuple[tuple[Judgement, ...], ...]
    """The incumbent's sweeps: by seed, then temperature."""
    challenger: tuple[tuple[Judgement, ...], ...]
    """The challenger's sweeps, same seeds."""


def compare(
    referee: Referee,
    incumbent: GeneratorModel,
    challenger: GeneratorModel,
    seeds: Sequence[int],
    nll: tuple[float, float],
    nll_tolerance: float = 0.01,
) -> Verdict:
    """Judge two models on fresh samples over a sweep of temperatures, same seeds.

    The challenger is accepted when its reverse-LM score at the same LM score, the mean over what both sweeps
    reach, is lower by more than `BEYOND_NOISE` standard errors over the seeds, nowhere on it higher by as
    many, and its held-out NLL (`nll` = incumbent's, challenger's; nats per token) has not risen by more than
    `nll_tolerance`. At least two seeds. Diversity is compared at matched quality, and not the other way,
    because warm sweeps are flat in diversity: noise there would swamp a comparison of quality.
    """
    old, new = (
        tuple(
            tuple(referee.judge(referee.sample(model, seed, temperature)) for temperature in VERDICT_SWEEP)
            for seed in seeds
        )
        for model in (incumbent, challenger)
    )
    grid, gains = matched_gains([_points(sweep) for sweep in new], [_points(sweep) for sweep in old])
    rise = nll[1] - nll[0]
    kept = "kept the distilled weights: "
    scores = [score for sweep in new for point in sweep for score in vars(point).values()]
    if not all(map(math.isfinite, (*scores, rise))) or not len(grid):
        return Verdict(False, f"{kept}a score is not finite", VERDICT_SWEEP, old, new)
    by_seed = gains.mean(1)
    gain, error = float(by_seed.mean()), float(standard_error(by_seed))
    lost = gains.mean(0) < -BEYOND_NOISE * standard_error(gains) - 1e-9
    span = f"LM scores ({grid[0]:.2f} to {grid[-1]:.2f})" if len(grid) > 1 else "LM score"
    words = (
        f"reverse-LM score {-gain:+.3f} ± {error:.3f} at the same {span}, held-out NLL {rise:+.4f} (nats per "
        f"token, lower is better)"
    )
    if rise > nll_tolerance:
        return Verdict(False, f"{kept}held-out likelihood fell; {words}", VERDICT_SWEEP, old, new)
    if lost.any():
        return Verdict(False, f"{kept}worse at some quality; {words}", VERDICT_SWEEP, old, new)
    if gain <= BEYOND_NOISE * error + 1e-9:
        return Verdict(False, f"{kept}no gain beyond the noise; {words}", VERDICT_SWEEP, old, new)
    return Verdict(True, f"took the refined weights: {words}", VERDICT_SWEEP, old, new)


def _points(sweep: Sequence[Judgement]) -> Sweep:
    """A sweep as points whose second score is compared where the first is the same."""
    return [(point.lm_score, point.reverse_lm_score) for point in sweep]
