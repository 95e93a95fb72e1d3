"""What changes the logits on the host before a token is chosen, and in which order.

The host path is taken when one of these is used; the graph then gives the logits, float32 [V], and
`Chooser` applies, in this order:

1. padding and unknown words: minus infinity, as in the graph;
2. ``repetition_penalty`` r (Keskar et al. 2019, CTRL, eq. for p_i): the logit of every token that occurs in
   the prompt or the text so far becomes ``l / r`` if positive, else ``l * r``; the start token does not
   count;
3. ``presence_penalty`` a and ``frequency_penalty`` b (OpenAI's completions API): ``l -= a * (n > 0) + b * n``
   with n the times that the token occurs in the text generated so far;
4. ``logit_bias``: added;
5. ``processors``: the caller's functions, in their order;
6. bans (minus infinity): ``no_repeat_ngram_size`` n (Paulus et al. 2017): tokens that would complete n tokens
   in a row which occur in the prompt or the text already; ``min_new_tokens``: the end of the text before that
   many tokens; ``bad_words`` and the constraint: whatever their automata forbid;
7. ``typical_p`` (Meister et al. 2022): with p the softmax of the logits over the temperature and H its
   entropy, tokens by rising ``|-ln p - H|`` (of equal ones the lower id first) until their sum reaches
   ``typical_p``; the others are banned; nothing is when decoding is greedy;
8. temperature, top-k, top-p and min-p (`sampling`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError
from .manifest import is_count
from .numpy_sampling import choose
from .sampling import FloatArray, is_number

if TYPE_CHECKING:
    from .constraints import Constraint, GuideState
    from .options import Settings
    from .tokenizer import Tokenizer

LogitsProcessor = Callable[[FloatArray, Sequence[int]], FloatArray | None]
"""Takes the logits, float32 [V], which are its own to change, and the ids so far (prompt and text, without
the start token); returns the new logits, or ``None`` if it has changed them in place. It may be called from
any thread, and must depend on nothing but its arguments if the same seed shall give the same text."""

BANNED = np.float32(-np.inf)


class Chooser:
    """Chooses the tokens of one sequence on the host; ``prompt`` is without the start token.

    Raises:
        InputError: if ``logit_bias`` names an id that is not in the vocabulary, or is not finite.
    """

    def __init__(
        self,
        settings: "Settings",
        prompt: Sequence[int],
        tokenizer: "Tokenizer",
        constraints: "Sequence[Constraint]" = (),
    ) -> None:
        self._settings = settings
        self._tokens = list(prompt)
        self._prompt_length = len(self._tokens)
        self._counts: Counter[int] = Counter()
        self._eos = tokenizer.eos_id
        self._suppressed = list(tokenizer.suppressed)
        self._constraints = tuple(constraints)
        self._guides: tuple[GuideState, ...] = tuple(c.start for c in self._constraints)
        self._params = settings.sampling.resolve(tokenizer.vocab_size)
        self._bias = _check_bias(settings, tokenizer.vocab_size)

    def fork(self) -> "Chooser":
        """An independent copy."""
        other = copy(self)
        other._tokens, other._counts = self._tokens.copy(), self._counts.copy()
        return other

    def push(self, token: int) -> None:
        """Note that a token was chosen."""
        self._tokens.append(token)
        self._counts[token] += 1
        self._guides = tuple(constraint.advance(state, token) for constraint, state in self._pairs)

    @property
    def complete(self) -> bool:
        """Whether a constraint is satisfied and allows nothing more."""
        return any(constraint.is_complete(state) for constraint, state in self._pairs)

    @property
    def _pairs(self) -> "Iterator[tuple[Constraint, GuideState]]":
        return zip(self._constraints, self._guides, strict=True)

    def choose(self, logits: FloatArray, uniform: float) -> int:
        """The next token.

        Args:
            logits: the model's, [V]; not changed.
            uniform: the random number, in [0, 1).

        Raises:
            InputError: if the options leave no token to choose.
        """
        processed = self.process(logits)
        settings = self._settings
        if settings.typical_p < 1 and settings.sampling.temperature > 0:
            keep_typical(processed, settings.sampling.temperature, settings.typical_p)
        return choose(processed, self._params, uniform)

    def process(self, logits: FloatArray) -> FloatArray:
        """The logits [V] after steps 1 to 6, as an array of its own.

        Raises:
            InputError: if the options leave no token to choose, or a processor returns no logits.
        """
        settings, tokens = self._settings, self._tokens
        result = logits.astype(np.float32)
        result[self._suppressed] = BANNED
        if settings.repetition_penalty != 1 and tokens:
            penalise_repetition(result, tokens, settings.repetition_penalty)
        if self._counts and (settings.presence_penalty or settings.frequency_penalty):
            penalise_presence(result, self._counts, settings.presence_penalty, settings.frequency_penalty)
        if self._bias is not None:
            result += self._bias
        for processor in settings.processors:
            result = _apply(processor, result, tokens)
        if settings.no_repeat_ngram_size:
            result[repeated_ngrams(tokens, settings.no_repeat_ngram_size)] = BANNED
        if len(tokens) - self._prompt_length < settings.min_new_tokens:
            result[self._eos] = BANNED
        for constraint, state in self._pairs:
            result[~constraint.mask(state)] = BANNED
        if not np.isfinite(result.max()):
            count = len(tokens) - self._prompt_length
            raise InputError(
                f"no token is allowed after {count} new tokens: the constraint, bans and processors leave "
                "nothing (or a logit is not a number); allowed are options that can be met together"
            )
        return result


def penalise_repetition(logits: FloatArray, tokens: Sequence[int], penalty: float) -> None:
    """Step 2, in place."""
    seen = np.unique(np.asarray(tokens))
    values, factor = logits[seen], np.float32(penalty)
    logits[seen] = np.where(values > 0, values / factor, values * factor)


def penalise_presence(logits: FloatArray, counts: Counter[int], presence: float, frequency: float) -> None:
    """Step 3, in place; ``counts`` says how often each token occurs in the text."""
    ids = np.fromiter(counts, np.int64, len(counts))
    times = np.fromiter(counts.values(), np.float32, len(counts))
    logits[ids] -= np.float32(presence) + np.float32(frequency) * times


def repeated_ngrams(tokens: Sequence[int], size: int) -> list[int]:
    """The ids that would complete ``size`` tokens in a row which ``tokens`` holds already."""
    if len(tokens) < size:
        return []
    held = list(tokens[len(tokens) - size + 1 :])
    starts = range(len(tokens) - size + 1)
    return [tokens[at + size - 1] for at in starts if tokens[at : at + size - 1] == held]


def keep_typical(logits: FloatArray, temperature: float, mass: float) -> None:
    """Step 7, in place."""
    scaled = logits / np.float32(temperature)
    weights = np.exp(scaled - scaled.max())
    p = weights / weights.sum(dtype=np.float32)
    possible = np.flatnonzero(p > 0)
    surprise = -np.log(p[possible])
    entropy = (p[possible] * surprise).sum(dtype=np.float32)
    order = possible[np.argsort(np.abs(surprise - entropy), kind="stable")]
    before = np.cumsum(p[order], dtype=np.float32) - p[order]
    kept = order[before < np.float32(mass)]
    banned = np.ones(len(logits), bool)
    banned[kept] = False
    logits[banned] = BANNED


def _apply(processor: LogitsProcessor, logits: FloatArray, tokens: list[int]) -> FloatArray:
    returned = processor(logits, tuple(tokens))
    try:
        result = logits if returned is None else np.array(returned, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"processors: {processor!r} returned no logits ({error})") from error
    if result.shape != logits.shape:
        raise InputError(
            f"processors: {processor!r} returned shape {result.shape}; allowed is {logits.shape}, or None"
        )
    return result


def _check_bias(settings: "Settings", vocab_size: int) -> FloatArray | None:
    """The bias of every token, [V], if there is any."""
    if settings.logit_bias is None:
        return None
    bias = np.zeros(vocab_size, np.float32)
    for token, value in settings.logit_bias.items():
        ok = is_count(token) and token < vocab_size
        ok = ok and (value == -np.inf or (is_number(value) and abs(value) <= 1e6))
        if not ok:
            raise InputError(
                f"logit_bias has {token!r}: {value!r}; allowed are ids below {vocab_size} "
                "with numbers from -1e6 to 1e6, or -inf"
            )
        bias[token] = value
    return bias
