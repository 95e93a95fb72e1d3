"""A generation that is asked for, and where its tokens come from.

The native path leaves sampling to the graph and never sees the logits; the host path, taken when an option
needs it, has them and chooses with a `processors.Chooser`. Random numbers are the same ones on both: one for
each token, from the seed.
"""

from collections.abc import Iterator, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .buffers import StepResult
from .context import last_half
from .engine import StepBackend
from .manifest import damaged
from .numpy_sampling import choose
from .options import Settings
from .processors import BANNED, Chooser
from .results import Likely
from .sampling import AnyArray, FloatArray, IntArray
from .tokenizer import Tokenizer
from .uniform import UniformStream

if TYPE_CHECKING:
    from .constraints import Constraint
    from .prompt_state import PromptState
    from .rating import Rater

CHUNK = 256
"""Most tokens in one call of the graph: bounds the memory of a long prompt or text. It is a constant because
quantised graphs scale each call on its own, so other cuts could give other tokens."""


class Request(NamedTuple):
    """A generation that has been checked and can run.

    Attributes:
        session: runs the model.
        tokenizer: turns tokens into text.
        settings: what is asked for.
        prompt: all ids before the text, start token first.
        state: where to start from, or ``None``: from nothing.
        condition: weights of the labels, where the model has such.
        fed: the ids to feed from there.
        constraints: what the text must satisfy.
        rater: what chooses among candidates, where that is not their likelihood.
    """

    session: StepBackend
    tokenizer: Tokenizer
    settings: Settings
    prompt: tuple[int, ...]
    state: "PromptState | None"
    fed: tuple[int, ...]
    condition: FloatArray | None = None
    constraints: "tuple[Constraint, ...]" = ()
    rater: "Rater | None" = None

    def chooser(self) -> Chooser:
        """What chooses this request's tokens on the host."""
        return Chooser(self.settings, self.prompt[1:], self.tokenizer, self.constraints)

    def chunks(self, tokens: Sequence[int]) -> Iterator[tuple[IntArray, bool]]:
        """The tokens in pieces [1, T] for one call each, with whether it is the last."""
        array, count = np.array([tokens], np.int64), len(tokens)
        return ((array[:, at : at + CHUNK], at + CHUNK >= count) for at in range(0, count, CHUNK))


class TokenSource:
    """The tokens of one generation, from the first on.

    Attributes:
        state: where the model stands.
        chooser: what chooses on the host; ``None`` on the native path.
        logprobs: of the tokens so far, if the settings ask for them.
        likely: the likeliest tokens at their positions, likewise.
    """

    state: Any

    def __init__(self, request: Request, cancelled: Event) -> None:
        settings = request.settings
        self._request = request
        self._cancelled = cancelled
        self._session = request.session
        self._sampling = settings.sampling
        self.chooser = request.chooser() if settings.on_host else None
        self.want_logits = settings.on_host or settings.logprobs
        self.logprobs: list[float] = []
        self.likely: list[Likely] = []
        self.draw = UniformStream(settings.seed).next

    def first(self) -> int | None:
        """Feed the prompt; the first token after it, or ``None`` if cancelled before."""
        given = self._request.state
        if given is None:
            self.state = self._session.new_state(1, self._request.condition)
            return self._feed(self._request.fed)
        self.state = self._session.write_state(given.arrays, given.length)
        if self._request.fed:
            return self._feed(self._request.fed)
        uniform = self.draw()
        if self.chooser is not None:
            return self.pick(0, given.logits, uniform)
        allowed = given.logits.copy()
        allowed[list(self._request.tokenizer.suppressed)] = BANNED
        token = choose(allowed, self._sampling.resolve(len(allowed)), uniform)
        return self.pick(token, given.logits, uniform)

    def next(self, token: int) -> int:
        """Feed a token; the one after it."""
        if not self.want_logits:
            return self._session.step(token, self.state, self._sampling, self.draw())
        uniform = self.draw()
        step = self._session.run(
            np.array([[token]]),
            self.state,
            sampling=self._sampling,
            uniform=np.array([uniform], np.float32),
            want_logits=True,
        )
        return self.pick(int(step.next_token[0]), last_logits(step)[0], uniform)

    def slide(self, text: Sequence[int]) -> int | None:
        """The next token when the context is full: go on from its last half."""
        limit = self._session.manifest.context_length or 0
        self.state = self._session.new_state(1, self._request.condition)
        return self._feed(last_half((*self._request.prompt, *text), limit))

    def pick(self, sampled: int, logits: FloatArray | None, uniform: float) -> int:
        """The token to take: the graph's, or the host's choice from the logits [V]."""
        if logits is None:
            return sampled
        if self.chooser is not None:
            sampled = self.chooser.choose(logits, uniform)
            self.chooser.push(sampled)
        if self._request.settings.logprobs:
            logprobs = log_softmax(logits)
            self.logprobs.append(float(logprobs[sampled]))
            if count := self._request.settings.top_logprobs:
                order = np.argsort(-logprobs, kind="stable")[:count].tolist()
                self.likely.append({token: float(logprobs[token]) for token in order})
        return sampled

    def _feed(self, tokens: Sequence[int]) -> int | None:
        uniform = self.draw()
        for chunk, last in self._request.chunks(tokens):
            if self._cancelled.is_set():
                return None
            step = self._session.run(
                chunk,
                self.state,
                sampling=self._sampling,
                uniform=np.array([uniform], np.float32),
                want_logits=self.want_logits and last,
            )
        logits = last_logits(step)[0] if self.want_logits else None
        return self.pick(int(step.next_token[0]), logits, uniform)


def prefill(request: Request, bundle: str) -> "PromptState":
    """The state after a request's prompt.

    Args:
        request: its ``fed`` must not be empty.
        bundle: SHA-256 of the bundle.
    """
    from .prompt_state import PromptState

    session, given = request.session, request.state
    if given is None:
        state = session.new_state(1, request.condition)
    else:
        state = session.write_state(given.arrays, given.length)
    sampling, uniform = request.settings.sampling, np.zeros(1, np.float32)
    for chunk, last in request.chunks(request.fed):
        step = session.run(chunk, state, sampling=sampling, uniform=uniform, want_logits=last)
    logits = last_logits(step)[0].copy()
    return PromptState(bundle, request.prompt, state.length, session.read_state(state), logits)


def prefilled(request: Request) -> Request:
    """The same request, its prompt paid for."""
    if not request.fed:
        return request
    return request._replace(state=prefill(request, ""), fed=())


def log_softmax(logits: FloatArray) -> AnyArray:
    """Natural log-probabilities [..., V], in float64."""
    shifted: AnyArray = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def last_logits(step: StepResult) -> FloatArray:
    """The logits [B, V] of the last position of a step that was asked for them."""
    if step.logits is None:
        raise damaged("model.onnx gave no logits")
    row: FloatArray = step.logits[:, -1]
    return row
