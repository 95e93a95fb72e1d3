"""The decode loop: one generation, token by token, and the text it makes."""

import time
from collections.abc import Sequence
from dataclasses import replace
from threading import Event

import numpy as np

from .processors import Chooser
from .request import Request, TokenSource, prefilled
from .results import FinishReason, Generation, Likely, Piece, PieceGenerator, Timings
from .stopping import StopFilter


class Transcript:
    """The text of one generation, and why it ended.

    Attributes:
        tokens: the ids so far, without the end of the text.
        reason: why it ended; ``None`` while it has not.
    """

    def __init__(self, request: Request) -> None:
        self.tokens: list[int] = []
        self.reason: FinishReason | None = None
        self._request = request
        self._eos = request.tokenizer.eos_id
        self._most = request.settings.max_new_tokens
        self._decoder = request.tokenizer.stream()
        self._stop = StopFilter(request.settings.stop)
        self._shown: list[str] = []

    def push(self, token: int | None, chooser: Chooser | None = None) -> str:
        """Take the next token (``None``: cancelled); return the text that can be shown now."""
        if token is None or token == self._eos:
            self.reason = "cancelled" if token is None else "eos"
            return ""
        self.tokens.append(token)
        piece = self._stop.push(self._decoder.push(token))
        if piece:
            self._shown.append(piece)
        if self._stop.stopped:
            self.reason = "stop"
        elif chooser is not None and chooser.complete:
            self.reason = "eos"
        elif len(self.tokens) == self._most:
            self.reason = "length"
        return piece

    def finish(self) -> str:
        """After the last token: the rest of the text."""
        rest = "" if self._stop.stopped else self._stop.push(self._decoder.flush())
        if self._stop.stopped:
            self.reason = "stop"
        rest += self._stop.flush()
        if rest:
            self._shown.append(rest)
        return rest

    def result(
        self, timings: Timings, logprobs: Sequence[float], likely: Sequence[Likely] = ()
    ) -> Generation:
        """The finished generation; ``logprobs`` and ``likely`` may go on past the tokens."""
        settings = self._request.settings
        return Generation(
            "".join(self._shown),
            tuple(self.tokens),
            self.reason or "cancelled",
            len(self._request.prompt) - 1,
            settings.seed,
            timings,
            tuple(logprobs[: len(self.tokens)]) if settings.logprobs else None,
            tuple(likely[: len(self.tokens)]) if settings.top_logprobs else None,
        )


def decode(request: Request, cancelled: Event) -> PieceGenerator:
    """Generate, at most until the step after ``cancelled``: yields text, returns the finished generation.

    Raises:
        BundleError: if the model fails while running.
        InputError: if the options leave no token to choose.
    """
    started = time.perf_counter()
    limit = request.session.manifest.context_length
    sliding = request.settings.context_policy == "slide"
    text, source = Transcript(request), TokenSource(request, cancelled)
    chooser, following, is_cancelled = source.chooser, source.next, cancelled.is_set
    token = source.first()
    prefill_s, decode_s, at = time.perf_counter() - started, 0.0, 0
    started = time.perf_counter()
    while True:
        piece = text.push(token, chooser)
        if piece:
            shown, at = at, len(text.tokens)
            decode_s += time.perf_counter() - started
            yield Piece(piece, text.tokens[shown:], source.logprobs[shown:at], source.likely[shown:at])
            started = time.perf_counter()
        if text.reason is not None or token is None:
            break
        if is_cancelled():
            text.reason = "cancelled"
            break
        if source.state.length != limit:
            token = following(token)
        elif sliding:
            token = source.slide(text.tokens)
        else:
            text.reason = "context"
            break
    rest = text.finish()
    decode_s += time.perf_counter() - started
    result = text.result(Timings(prefill_s, decode_s), source.logprobs, source.likely)
    if rest:
        logprobs, likely = result.logprobs or (), result.top_logprobs or ()
        yield Piece(rest, result.tokens[at:], logprobs[at:], likely[at:])
    return result


def decode_best(request: Request, cancelled: Event) -> PieceGenerator:
    """``best_of``: candidates with the seeds from the given one on; the text comes when all are done.

    The best is the one whose tokens have the highest mean log-probability under the model (of equal ones the
    first; one without tokens is the worst), or the choice of the bundle's discriminator, for which all are
    drawn in one batch. All start from one prefilled state.
    """
    request, settings = prefilled(request), request.settings
    by_rater = request.rater is not None
    plain = replace(settings, best_of=1, choose_by="likelihood", logprobs=settings.logprobs or not by_rater)
    seeds = [(settings.seed + number) % (1 << 64) for number in range(settings.best_of)]
    candidates = [request._replace(settings=replace(plain, seed=seed)) for seed in seeds]
    results: list[Generation] = []
    if request.rater is not None:
        from .batch import decode_batch
        from .rating import choose

        results = decode_batch(candidates)
        best = results[choose(request.rater, request.prompt[1:], results, settings.choose_by, settings.seed)]
    else:
        for candidate in candidates:
            results.append(exhaust(decode(candidate, cancelled)))
            if cancelled.is_set():
                break
        best = max(results, key=_mean_logprob)
    if cancelled.is_set():
        best = replace(best, finish_reason="cancelled")
    if best.text:
        yield Piece(best.text, best.tokens, best.logprobs or (), best.top_logprobs or ())
    return best if settings.logprobs else replace(best, logprobs=None)


def _mean_logprob(result: Generation) -> float:
    return float(np.mean(result.logprobs)) if result.logprobs else -np.inf


def exhaust(pieces: PieceGenerator) -> Generation:
    """Run a generation to its end."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: Generation = end.value
            return result
