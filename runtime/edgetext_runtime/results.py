"""What a generator gives back."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from edgetext_runtime.errors import EdgetextError

FinishReason = Literal["eos", "length", "stop", "context"]


@dataclass(frozen=True)
class Timings:
    """Where the time of a generation went, in seconds; the consumer of a stream is not counted.

    Attributes:
        prefill_s: from the tokenised prompt to the first token.
        decode_s: all later tokens, with turning them into text.
    """

    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    Attributes:
        text: the generated text, without the prompt and without a stop string.
        tokens: the generated ids, without the final end-of-text; with a stop string, up to its last token.
        finish_reason: ``"eos"`` (the model ended the text), ``"length"`` (``max_new_tokens`` reached),
            ``"stop"`` (a stop string), or ``"context"`` (the model's context is full).
        prompt_tokens: number of tokens the prompt has, without the start token.
        seed: the seed used; give it again for the same text.
        timings: where the time went.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    seed: int
    timings: Timings


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


PieceGenerator = Generator[str, None, Generation]
"""Yields pieces of text and returns the finished generation."""


class GenerationStream(Iterator[str]):
    """The text of a generation as it appears; no piece holds part of a character or of a stop string.

    Iterate to the end, then read :attr:`result`. Leaving early just stops the work.
    """

    def __init__(self, pieces: PieceGenerator) -> None:
        self._pieces = pieces
        self._result: Generation | None = None

    def __next__(self) -> str:
        """The next piece, never empty."""
        try:
            return next(self._pieces)
        except StopIteration as end:
            if end.value is not None:  # None: the stream had ended before
                self._result = end.value
            raise StopIteration from None

    @property
    def result(self) -> Generation:
        """The finished generation.

        Raises:
            EdgetextError: if the stream has not been read to its end.
        """
        if self._result is None:
            raise EdgetextError(
                "the generation is not finished: read the stream to its end before its result"
            )
        return self._result
