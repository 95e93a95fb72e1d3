"""Text from a bundle: generate, stream, batch, prefill, score, verify.

    >>> generator = Generator.load("model.etx")
    >>> for piece in generator.stream("Return the", temperature=0.8, seed=1):
    ...     show(piece)

The same seed gives the same tokens, whatever was generated before and with however many threads. A generator
can be used from several threads at once: every call carries its own state.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Unpack

import numpy as np

from .bundle import Bundle, Manifest, read_bundle
from .conditions import read_condition
from .context import fit_prompt
from .decoding import decode, decode_best, exhaust
from .engine import Threads, open_session
from .errors import BundleError, InputError, TokenizerError
from .golden import GoldenCase, read_golden
from .options import Condition, ContextPolicy, Options, Settings, resolve
from .request import CHUNK, Request, log_softmax, prefill
from .results import Generation, GenerationStream, Piece, PieceGenerator, Score, Timings
from .sampling import GenerationDefaults, SamplingParams, check_number
from .tokenizer import Tokenizer

if TYPE_CHECKING:  # what most programs never need is imported when it is
    from pathlib import Path

    from .aio import AsyncGenerationStream
    from .constraints import ConstraintCache
    from .prompt_state import PromptState
    from .rating import Rater

__all__ = [
    "Generation",
    "GenerationStream",
    "Generator",
    "GoldenCase",
    "Piece",
    "Score",
    "Timings",
]

_GREEDY = SamplingParams(temperature=0)


class Generator:
    """A model ready to generate; made by `load`, or from a bundle already read.

    Args:
        bundle: the bundle.
        threads: threads inside an operator, or ``"auto"``: as many as `tuning` finds.
        provider: where to run: ``"auto"`` (onnxruntime on the CPU where it is installed, else numpy), or by
            name ``"cpu"``, ``"cuda"`` or ``"numpy"``, which is then used or refused.

    Raises:
        BundleError: if the parts of the bundle do not fit each other.
        DependencyError: if onnxruntime is missing or too old.
        InputError: if ``threads`` is out of range.
        ProviderError: if the provider is not available here.
    """

    def __init__(self, bundle: Bundle, *, threads: Threads = "auto", provider: str = "auto") -> None:
        self.bundle = bundle
        self.tokenizer = _load_tokenizer(bundle)
        self.defaults = GenerationDefaults.from_json(bundle.members["generation.json"])
        self.golden = read_golden(bundle.members["golden.json"], bundle.manifest.vocab_size)
        self.session = open_session(
            bundle.members["model.onnx"],
            bundle.manifest,
            sha256=bundle.sha256,
            threads=threads,
            provider=provider,
        )

    @classmethod
    def load(
        cls, source: "str | Path | bytes", *, threads: Threads = "auto", provider: str = "auto"
    ) -> "Generator":
        """Read a bundle, check it, and make it ready; for the rest see the class.

        Args:
            source: path of an .etx file or of an unpacked folder, or the bytes of an .etx file.
            threads: as for the class.
            provider: as for the class.
        """
        return cls(read_bundle(source), threads=threads, provider=provider)

    @property
    def manifest(self) -> Manifest:
        """What the model is."""
        return self.bundle.manifest

    @cached_property
    def _constraints(self) -> "ConstraintCache":
        from .constraints import ConstraintCache

        return ConstraintCache(self.tokenizer)

    @cached_property
    def _rater(self) -> "Rater":
        from .rating import rater_of

        return rater_of(self.bundle)

    def generate(
        self, prompt: str = "", *, state: "PromptState | None" = None, **options: Unpack[Options]
    ) -> Generation:
        """Continue a prompt and return when the text is complete.

        Args:
            prompt: the text to continue; empty starts a new document.
            state: where to go on from (`prefill`), with ``prompt`` after it; it is not changed.
            options: see `options.Options`.

        Raises:
            InputError: if an option is out of range, the prompt longer than the model's context, or the
                options leave no token to choose.
            TokenizerError: if the prompt cannot be encoded.
        """
        return exhaust(_run(self._request(prompt, state, resolve(self.defaults, options)), Event()))

    def stream(
        self, prompt: str = "", *, state: "PromptState | None" = None, **options: Unpack[Options]
    ) -> GenerationStream:
        """Continue a prompt and give the text as it appears; arguments and errors as for `generate`.

        The arguments are checked here and now; the work is done as the stream is read. With ``num_beams`` or
        ``best_of`` the text comes at once, at the end.
        """
        request, cancelled = self._request(prompt, state, resolve(self.defaults, options)), Event()
        return GenerationStream(_run(request, cancelled), cancelled)

    async def agenerate(
        self, prompt: str = "", *, state: "PromptState | None" = None, **options: Unpack[Options]
    ) -> Generation:
        """`generate` for asyncio; cancelling the task ends the work after the step in progress."""
        return await self.astream(prompt, state=state, **options).read()

    def astream(
        self, prompt: str = "", *, state: "PromptState | None" = None, **options: Unpack[Options]
    ) -> "AsyncGenerationStream":
        """`stream` for asyncio: ``async for piece in generator.astream(…)``."""
        from .aio import AsyncGenerationStream

        return AsyncGenerationStream(self.stream(prompt, state=state, **options))

    def generate_batch(self, prompts: Sequence[str], **options: Unpack[Options]) -> list[Generation]:
        """Continue several prompts, of whatever lengths, faster than one after the other.

        The n-th prompt (from 0) has the seed ``seed + n``. For an fp32 bundle its text is that of
        ``generate(prompts[n], seed=seed + n)``; for an int8 bundle see `batch`.

        Args:
            prompts: the texts to continue.
            options: see `options.Options`; the same for all.

        Raises:
            InputError: as for `generate`.
            TokenizerError: if a prompt cannot be encoded.
        """
        from .batch import decode_batch

        ok = isinstance(prompts, Sequence) and not isinstance(prompts, str)
        check_number("prompts", prompts, ok, "a list of strings")
        first = resolve(self.defaults, options)
        settings = [replace(first, seed=(first.seed + n) % (1 << 64)) for n in range(len(prompts))]
        requests = [
            self._request(*pair) for pair in zip(prompts, [None] * len(prompts), settings, strict=True)
        ]
        if first.num_beams == 1 and first.best_of == 1:
            return decode_batch(requests)
        return [exhaust(_run(request, Event())) for request in requests]

    def prefill(
        self,
        prompt: str = "",
        *,
        state: "PromptState | None" = None,
        context_policy: ContextPolicy = "error",
        **condition: Unpack[Condition],
    ) -> "PromptState":
        """Pay for a prompt once: the state after it, to be continued any number of times.

        ``generate(state=prefill(prompt))`` gives the tokens of ``generate(prompt)``.

        Args:
            prompt: the text.
            state: what it comes after; it is not changed. Both texts are encoded by themselves.
            context_policy: as for `generate`; what does not fit leaves half of the context.
            condition: as for `generate`; the state keeps it.

        Raises:
            InputError: if the prompt is longer than the model's context.
            TokenizerError: if it cannot be encoded.
        """
        limit = self.manifest.context_length
        settings = resolve(self.defaults, {"context_policy": context_policy, "seed": 0, **condition})
        request = self._request(prompt, state, settings, room=limit)
        if not request.fed and state is not None:
            return state.fork()
        return prefill(request, self.bundle.sha256)

    def score(self, text: str, **condition: Unpack[Condition]) -> Score:
        """Log-probability of every token of a text, and its perplexity.

        Args:
            text: the text.
            condition: as for `prefill`.

        Raises:
            InputError: if the text is empty or longer than the model's context.
            TokenizerError: if it cannot be encoded.
        """
        tokens = self._encode(text, "text")
        check_number("text", text, bool(tokens), "a text of at least one token")
        fed = fit_prompt(
            [self.manifest.eos_id, *tokens], self.manifest.context_length, "error", room=0, name="text"
        )
        settings = resolve(self.defaults, {"seed": 0, **condition})
        state = self.session.new_state(1, read_condition(self.manifest, settings))
        inputs = np.array([fed[:-1]], np.int64)
        logprobs: list[float] = []
        for start in range(0, len(tokens), CHUNK):
            targets = tokens[start : start + CHUNK]
            step = self.session.run(
                inputs[:, start : start + len(targets)],
                state,
                sampling=_GREEDY,
                uniform=np.zeros(1, np.float32),
                positions=np.arange(len(targets)),
                want_logits=True,
            )
            if step.logits is not None:
                logprobs += log_softmax(step.logits[0])[np.arange(len(targets)), targets].tolist()
        return Score(tuple(tokens), tuple(logprobs), float(np.exp(-np.mean(logprobs))))

    def verify(self) -> list[GoldenCase]:
        """Replay the golden cases of the bundle; return those that give other tokens here (empty: all good).

        The tokens of a quantised model can differ between instruction sets, so a failed case means "not quite
        the model that was measured", not necessarily a broken one.
        """
        return [case for case in self.golden if not self._replays(case)]

    def _replays(self, case: GoldenCase) -> bool:
        if tuple(self.tokenizer.encode(case.prompt)) != case.prompt_tokens:
            return False
        return self.generate(case.prompt, **case.settings).tokens == case.tokens

    def _encode(self, text: str, name: str) -> list[int]:
        check_number(name, text, isinstance(text, str), "a string")
        return self.tokenizer.encode(text)

    def _request(
        self, prompt: str, state: "PromptState | None", settings: Settings, *, room: int | None = None
    ) -> Request:
        """What a call asks for, checked; ``room``: for how many tokens to come, if not as asked for."""
        if state is not None and getattr(state, "bundle", None) != self.bundle.sha256:
            raise InputError("state is not of this bundle; allowed is what prefill() of this generator gives")
        new = self._encode(prompt, "prompt")
        whole = [self.manifest.eos_id, *new] if state is None else [*state.tokens, *new]
        condition = read_condition(self.manifest, settings, state)
        limit, policy = self.manifest.context_length, settings.context_policy
        room = settings.max_new_tokens if room is None else room
        if state is None:
            fed = fit_prompt(whole, limit, policy, room=room)
        elif limit is None or state.length + len(new) <= limit:
            fed = new
        else:
            fed, state = fit_prompt(whole, limit, policy, room=room), None
        needed = settings.constrained or settings.bad_words
        constraints = self._constraints.compile(settings) if needed else ()
        rater = None if settings.choose_by == "likelihood" else self._rater
        return Request(
            self.session,
            self.tokenizer,
            settings,
            tuple(whole),
            state,
            tuple(fed),
            condition,
            constraints,
            rater,
        )


def _run(request: Request, cancelled: Event) -> PieceGenerator:
    """The decode loop for a request."""
    if request.settings.num_beams > 1:
        from .beam import decode_beams

        return decode_beams(request, cancelled)
    return (decode_best if request.settings.best_of > 1 else decode)(request, cancelled)


def _load_tokenizer(bundle: Bundle) -> Tokenizer:
    manifest = bundle.manifest
    try:
        tokenizer = Tokenizer.from_json(bundle.members["tokenizer.json"])
    except TokenizerError as error:
        raise BundleError(f"tokenizer.json: {error}") from error
    if tokenizer.vocab_size != manifest.vocab_size:
        raise BundleError(
            f"tokenizer.json has {tokenizer.vocab_size} tokens, the model {manifest.vocab_size}: "
            "they do not belong together; export the bundle again with the tokenizer of its run"
        )
    special = {"eos": tokenizer.eos_id, "pad": tokenizer.pad_id, "unk": tokenizer.unk_id}
    if special != dict(manifest.special_tokens):
        raise BundleError(
            f"tokenizer.json has the special tokens {special}, the manifest {dict(manifest.special_tokens)}; "
            "export the bundle again"
        )
    return tokenizer
