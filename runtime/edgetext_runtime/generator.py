"""Text from a bundle: generate, stream, score, verify.

    >>> generator = Generator.load("model.etx")
    >>> for piece in generator.stream("Return the", temperature=0.8, seed=1):
    ...     show(piece)

The same seed gives the same tokens, whatever was generated before and with however many threads. A generator
can be used from several threads at once: every call carries its own state.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgetext_runtime.bundle import Bundle, Manifest, read_bundle
from edgetext_runtime.errors import BundleError, InputError, TokenizerError
from edgetext_runtime.golden import GoldenCase, read_golden
from edgetext_runtime.results import (
    FinishReason,
    Generation,
    GenerationStream,
    PieceGenerator,
    Score,
    Timings,
)
from edgetext_runtime.sampling import (
    FloatArray,
    GenerationDefaults,
    SamplingParams,
    UniformStream,
    check_seed,
)
from edgetext_runtime.session import State, StepSession
from edgetext_runtime.stopping import StopFilter, check_stops
from edgetext_runtime.tokenizer import Tokenizer

__all__ = ["Generation", "GenerationStream", "Generator", "GoldenCase", "Score", "Timings"]

_CHUNK = 256
"""Most tokens in one call of the graph: bounds the memory of a long prompt or text. It is a constant because
quantised graphs scale each call on its own, so other cuts could give other tokens."""
_SMALL_MODEL = 16 << 20
_MOST_THREADS = 4
_GREEDY = SamplingParams(temperature=0)


class Generator:
    """A model ready to generate; made by :meth:`load`, or from a bundle already read.

    Args:
        bundle: the bundle.
        threads: threads inside an operator, or ``"auto"``: one for a model of less than 16 MiB (more would
            only wait for each other), else one for each core this process may use, at most four.
        provider: where to run: ``"cpu"`` or ``"cuda"``.

    Raises:
        BundleError: if the parts of the bundle do not fit each other.
        DependencyError: if onnxruntime is missing or too old.
        InputError: if ``threads`` is out of range.
        ProviderError: if the provider is not available here.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | Literal["auto"] = "auto", provider: str = "cpu"
    ) -> None:
        self.bundle = bundle
        self.tokenizer = _load_tokenizer(bundle)
        self.defaults = GenerationDefaults.from_json(bundle.members["generation.json"])
        self.golden = read_golden(bundle.members["golden.json"], bundle.manifest.vocab_size)
        model = bundle.members["model.onnx"]
        count = _auto_threads(len(model)) if threads == "auto" else threads
        self.session = StepSession(model, bundle.manifest, threads=count, provider=provider)

    @classmethod
    def load(
        cls, source: str | Path | bytes, *, threads: int | Literal["auto"] = "auto", provider: str = "cpu"
    ) -> "Generator":
        """Read a bundle, check it, and make it ready.

        Args:
            source: path of an .etx file or of an unpacked folder, or the bytes of an .etx file.
            threads: as for the class.
            provider: as for the class.

        Raises:
            BundleError: if the bundle cannot be read or trusted; see also the class.
        """
        return cls(read_bundle(source), threads=threads, provider=provider)

    @property
    def manifest(self) -> Manifest:
        """What the model is."""
        return self.bundle.manifest

    def generate(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Generation:
        """Continue a prompt and return when the text is complete.

        Args:
            prompt: the text to continue; empty starts a new document.
            max_new_tokens: most tokens to generate, at least 1.
            temperature: 0 is greedy; lower is safer, higher more varied.
            top_k: sample among the k likeliest tokens; 0 is all.
            top_p: sample among the likeliest tokens that together reach this probability, (0, 1].
            min_p: drop tokens less likely than this share of the likeliest, [0, 1).
            seed: 0 to 2**64 - 1, for the same text again; default: a fresh one, given in the result.
            stop: end the text before the first of these strings.

        The sampling settings that are not given are those of the bundle.

        Raises:
            InputError: if a parameter is out of range or the prompt longer than the model's context.
            TokenizerError: if the prompt cannot be encoded.
        """
        stream = self.stream(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop=stop,
        )
        for _ in stream:
            pass
        return stream.result

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> GenerationStream:
        """Continue a prompt and give the text as it appears; arguments and errors as for :meth:`generate`.

        The arguments are checked here and now; the work is done as the stream is read.
        """
        settings = self.defaults.override(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
        )
        stops = check_stops(stop)
        seed = check_seed(seed)
        tokens = [self.manifest.eos_id, *self._encode(prompt, "prompt")]
        return GenerationStream(self._pieces(tokens, settings, seed, stops))

    def score(self, text: str) -> Score:
        """Log-probability of every token of a text, and its perplexity.

        Raises:
            InputError: if the text is empty or longer than the model's context.
            TokenizerError: if it cannot be encoded.
        """
        tokens = self._encode(text, "text")
        if not tokens:
            raise InputError(f"text is {text!r}; allowed is a text of at least one token")
        state = self.session.new_state()
        inputs = np.array([self.manifest.eos_id, *tokens[:-1]], np.int64)
        logprobs: list[float] = []
        for start in range(0, len(tokens), _CHUNK):
            targets = tokens[start : start + _CHUNK]
            step = self.session.run(
                inputs[None, start : start + len(targets)],
                state,
                sampling=_GREEDY,
                uniform=np.zeros(1, np.float32),
                positions=np.arange(len(targets)),
                want_logits=True,
            )
            if step.logits is not None:
                logprobs += _log_softmax(step.logits[0])[np.arange(len(targets)), targets].tolist()
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
        result = self.generate(case.prompt, **case.settings)
        return result.tokens == case.tokens

    def _encode(self, text: str, name: str) -> list[int]:
        if not isinstance(text, str):
            raise InputError(f"{name} is {text!r}; allowed is a string")
        tokens = self.tokenizer.encode(text)
        limit = self.manifest.context_length
        if limit is not None and len(tokens) + 1 > limit:
            raise InputError(
                f"{name} has {len(tokens) + 1} tokens with the start token; allowed is the model's context "
                f"of {limit}: shorten it"
            )
        return tokens

    def _prefill(self, tokens: list[int], state: State, sampling: SamplingParams, uniform: float) -> int:
        """Feed the prompt; return the first token sampled after it."""
        prompt = np.array([tokens], np.int64)
        draws = np.array([uniform], np.float32)
        next_token = 0
        for start in range(0, len(tokens), _CHUNK):
            chunk = prompt[:, start : start + _CHUNK]
            step = self.session.run(chunk, state, sampling=sampling, uniform=draws)
            next_token = int(step.next_token[0])
        return next_token

    def _pieces(
        self, prompt: list[int], settings: GenerationDefaults, seed: int, stops: tuple[str, ...]
    ) -> PieceGenerator:
        """The decode loop: yields text that can be shown, returns the finished generation."""
        started = time.perf_counter()
        session, sampling, eos = self.session, settings.sampling, self.manifest.eos_id
        limit = self.manifest.context_length
        state, draws = session.new_state(), UniformStream(seed)
        decoder, stop_filter = self.tokenizer.stream(), StopFilter(stops)
        shown: list[str] = []
        tokens: list[int] = []
        token = self._prefill(prompt, state, sampling, draws.next())
        prefill_s, decode_s = time.perf_counter() - started, 0.0
        started = time.perf_counter()
        while True:
            if token == eos:
                reason: FinishReason = "eos"
                break
            tokens.append(token)
            piece = stop_filter.push(decoder.push(token))
            if piece:
                shown.append(piece)
                decode_s += time.perf_counter() - started
                yield piece
                started = time.perf_counter()
            if stop_filter.stopped:
                reason = "stop"
                break
            if len(tokens) == settings.max_new_tokens:
                reason = "length"
                break
            if state.length == limit:
                reason = "context"
                break
            token = session.step(token, state, sampling, draws.next())
        rest = "" if stop_filter.stopped else stop_filter.push(decoder.flush())
        if stop_filter.stopped:
            reason = "stop"
        rest += stop_filter.flush()
        decode_s += time.perf_counter() - started
        if rest:
            shown.append(rest)
            yield rest
        timings = Timings(prefill_s, decode_s)
        return Generation("".join(shown), tuple(tokens), reason, len(prompt) - 1, seed, timings)


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


def _auto_threads(model_bytes: int) -> int:
    if model_bytes < _SMALL_MODEL:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def _log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    """Natural log-probabilities [n, V], in float64."""
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
