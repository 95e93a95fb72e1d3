"""Beam search: the likeliest texts of a number of tokens, kept side by side.

The score of a text of n tokens (its end included) is the sum of their log-probabilities over
``n ** length_penalty`` (Wu et al. 2016, eq. 14, without its constant): 0 favours short texts, 1 is the mean.
With penalties, bans or constraints, "log-probability" is what `processors.Chooser`
makes of the model's (as in the transformers library): not renormalised, and minus infinity where banned.

Sampling options and the seed have no part in it. The search ends when no unfinished text can become better
than the ``num_beams`` finished ones.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
from numpy.typing import NDArray

from .decoding import Transcript
from .errors import InputError
from .processors import Chooser
from .request import Request, last_logits, log_softmax, prefilled
from .results import FinishReason, Piece, PieceGenerator, Timings
from .sampling import FloatArray, SamplingParams

_GREEDY = SamplingParams(temperature=0)


@dataclass(frozen=True)
class _Beam:
    """A text under way, or finished."""

    chooser: Chooser
    tokens: tuple[int, ...] = ()
    total: float = 0.0
    """Sum of the (processed) log-probabilities."""
    logprobs: tuple[float, ...] = ()
    """Of the tokens, under the model."""
    parent: int = 0
    """Row of the state that it continues."""
    reason: FinishReason | None = None

    def score(self, penalty: float) -> float:
        """The sum over the number of tokens to the power of ``penalty``."""
        count = len(self.tokens) + (self.reason == "eos" and not self.chooser.complete)
        return self.total / float(max(count, 1)) ** penalty


class _Search:
    """The state of a beam search."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.width = request.settings.num_beams
        self.alive = [_Beam(request.chooser())]
        self.finished: list[_Beam] = []

    def extend(self, logits: FloatArray) -> None:
        """Replace the beams by their best continuations; ``logits`` [B, V] belong to them row by row."""
        logprobs = log_softmax(logits)
        totals = np.full(logits.shape, -np.inf)
        refusal: InputError | None = None
        for row, beam in enumerate(self.alive):
            try:
                totals[row] = beam.total + beam.chooser.process(logprobs[row].astype(np.float32))
            except InputError as error:  # nothing is allowed after this beam; perhaps after another
                refusal = error
        order = _largest(totals.ravel(), 2 * self.width)
        if len(order) == 0 and refusal is not None and not self.finished:
            raise refusal
        candidates = [self._follow(index, totals, logprobs) for index in order.tolist()]
        self.finished += [beam for beam in candidates if beam.reason is not None]
        self.finished = sorted(self.finished, key=self._score, reverse=True)[: self.width]
        self.alive = [beam for beam in candidates if beam.reason is None][: self.width]

    def _score(self, beam: _Beam) -> float:
        return beam.score(self.request.settings.length_penalty)

    def _follow(self, index: int, totals: NDArray[np.float64], logprobs: NDArray[np.float64]) -> _Beam:
        row, token = divmod(index, totals.shape[1])
        beam, total = self.alive[row], float(totals[row, token])
        if token == self.request.tokenizer.eos_id:
            return replace(beam, total=total, parent=row, reason="eos")
        chooser = beam.chooser.fork()
        chooser.push(token)
        tokens = (*beam.tokens, token)
        likely = (*beam.logprobs, float(logprobs[row, token]))
        return _Beam(chooser, tokens, total, likely, row, self._reason(tokens, chooser))

    def _reason(self, tokens: Sequence[int], chooser: Chooser) -> FinishReason | None:
        settings = self.request.settings
        if settings.stop:
            text = self.request.tokenizer.decode(tokens)
            if any(stop in text for stop in settings.stop):
                return "stop"
        if chooser.complete:
            return "eos"
        return "length" if len(tokens) == settings.max_new_tokens else None

    def is_over(self) -> bool:
        """Whether no beam can still become one of the best."""
        if not self.alive or len(self.finished) < self.width:
            return not self.alive
        settings, count = self.request.settings, len(self.alive[0].tokens)
        total = max(beam.total for beam in self.alive)  # sums of log-probabilities only fall …
        lengths = (float(count), float(settings.max_new_tokens))  # … but over a length they may rise again
        bound = max(total / length**settings.length_penalty for length in lengths)
        return self._score(self.finished[-1]) >= bound

    def best(self, reason: FinishReason) -> _Beam:
        """The best text; one that is unfinished has ended for this reason."""
        beams = [*self.finished, *(replace(beam, reason=reason) for beam in self.alive)]
        return max(beams, key=self._score)


def _largest(totals: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The indices of the largest finite numbers, in descending order, of equal ones the lower index first."""
    bound = np.partition(totals, len(totals) - count)[-count] if count < len(totals) else -np.inf
    found = np.flatnonzero((totals >= bound) & np.isfinite(totals))
    return found[np.argsort(-totals[found], kind="stable")[:count]]


def decode_beams(request: Request, cancelled: Event) -> PieceGenerator:
    """Search, yield the best text at once, return the finished generation; errors are those of `decode`."""
    started = time.perf_counter()
    request = prefilled(request)
    session, state = request.session, request.state
    if state is None:
        raise InputError("prompt has no tokens; allowed is a prompt or a state")
    search, logits = _Search(request), state.logits[None]
    arrays, length, limit = state.arrays, state.length, session.manifest.context_length
    prefill_s, started = time.perf_counter() - started, time.perf_counter()
    ended: FinishReason = "context"
    while True:
        search.extend(logits)
        if search.is_over() or length == limit:
            break
        if cancelled.is_set():
            ended = "cancelled"
            break
        parents = [beam.parent for beam in search.alive]
        at = session.write_state([array[parents] for array in arrays], length)
        step = session.run(
            np.array([[beam.tokens[-1]] for beam in search.alive]),
            at,
            sampling=_GREEDY,
            uniform=np.zeros(len(parents), np.float32),
            want_logits=True,
        )
        arrays, length, logits = session.read_state(at), at.length, last_logits(step)
    best = search.best(ended)
    text = Transcript(request)
    pieces = [text.push(token) for token in best.tokens]
    pieces.append(text.finish())
    if ended == "cancelled":
        text.reason = ended
    elif text.reason != "stop":
        text.reason = best.reason
    shown = "".join(pieces)
    timings = Timings(prefill_s, time.perf_counter() - started)
    if shown:
        yield Piece(shown, best.tokens, best.logprobs if request.settings.logprobs else ())
    return text.result(timings, best.logprobs)
