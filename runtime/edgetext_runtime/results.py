"""What a generator gives back."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Lock
from typing import Literal, Self

from .errors import EdgetextError

Likely = Mapping[int, float]
"""Token ids and their natural log-probabilities, the likeliest first."""
FinishReason = Literal["eos", "length", "stop", "context", "cancelled"]


@dataclass(frozen=True)
class Timings:
    """Where the time of a generation went, in seconds; the consumer of a stream is not counted.

    Attributes:
        prefill_s: from the tokenised prompt to the first token.
        decode_s: all later tokens, with turning them into text; in a batch, those of the whole batch.
    """

    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    Attributes:
        text: the generated text, without the prompt and without a stop string.
        tokens: the generated ids, without the final end-of-text; with a stop string, up to its last token.
        finish_reason: ``"eos"`` (the model ended the text, or its constraint allows nothing more),
            ``"length"`` (``max_new_tokens`` reached), ``"stop"`` (a stop string), ``"context"`` (the model's
            context is full), or ``"cancelled"``.
        prompt_tokens: number of tokens the prompt has, without the start token.
        seed: the seed used; give it again for the same text.
        timings: where the time went.
        logprobs: natural log-probability of every token under the model (before temperature, penalties and
            bans), if asked for.
        top_logprobs: the likeliest tokens at the position of every token, if asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    seed: int
    timings: Timings
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Likely, ...] | None = None


class Piece(str):
    """A piece of a generated text, which is a string, and the tokens that came since the piece before.

    Attributes:
        tokens: their ids; a character may take several, and a token may show its text only later.
        logprobs: their log-probabilities, if asked for; else empty. So for ``top_logprobs``.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[Likely, ...]

    def __new__(
        cls,
        text: str,
        tokens: Sequence[int] = (),
        logprobs: Sequence[float] = (),
        top_logprobs: Sequence[Likely] = (),
    ) -> Self:
        """Make a piece."""
        self = super().__new__(cls, text)
        self.tokens, self.logprobs, self.top_logprobs = tuple(tokens), tuple(logprobs), tuple(top_logprobs)
        return self


@dataclass(frozen=True)
class Score:
    """How likely the model finds a text.

    Attributes:
        tokens: the ids of the text, n of them.
        logprobs: natural log-probability of each, given the start token and those before it.
        perplexity: exp of minus the mean of ``logprobs``.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    perplexity: float


PieceGenerator = Generator[Piece, None, Generation]
"""Yields pieces of text and returns the finished generation."""


class GenerationStream(Iterator[Piece]):
    """The text of a generation as it appears; no piece holds part of a character or of a stop string.

    Iterate to the end, then read `result`; or leave early: `cancel`, or the end of a ``with``
    block, ends the work after the step in progress, and the result is what there was by then. One thread
    reads a stream; any thread may cancel it.
    """

    def __init__(self, pieces: PieceGenerator, cancelled: Event) -> None:
        self._pieces = pieces
        self._cancelled = cancelled
        self._reading = Lock()
        self._result: Generation | None = None

    def __next__(self) -> Piece:
        """The next piece, never empty."""
        with self._reading:
            try:
                return next(self._pieces)
            except StopIteration as end:
                if end.value is not None:  # None: the stream had ended before
                    self._result = end.value
                raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.cancel()
        if error is None:
            self._drain()

    def cancel(self) -> None:
        """End the generation after the step in progress, from any thread (``finish_reason`` "cancelled")."""
        self._cancelled.set()

    @property
    def result(self) -> Generation:
        """The finished generation; of one that was cancelled, what there was.

        Raises:
            EdgetextError: if the stream has neither been read to its end nor cancelled.
        """
        if self._result is None and self._cancelled.is_set():
            self._drain()
        if self._result is None:
            raise EdgetextError(
                "the generation is not finished: read the stream to its end before its result, or cancel it"
            )
        return self._result

    def _drain(self) -> None:
        for _ in self:
            pass
