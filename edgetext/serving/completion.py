"""What a completions request asks for, read from JSON and checked before anything is generated.

The fields are those of OpenAI's ``POST /v1/completions``; ``EXTENSIONS`` are edgetext's own options beside
them, under the names of :class:`edgetext_runtime.options.Options` (a client sends them as ``extra_body``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetext_runtime.errors import InputError
from edgetext_runtime.manifest import is_count

if TYPE_CHECKING:
    from edgetext_runtime import Generator

DEFAULT_MAX_TOKENS = 16
"""What OpenAI's API generates where ``max_tokens`` is not given."""
MOST_LOGPROBS = 20
MOST_STOPS = 16
EXTENSIONS = (
    "top_k",
    "min_p",
    "typical_p",
    "min_new_tokens",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words",
    "choices",
    "regex",
    "json_schema",
    "context_policy",
    "label",
    "label_strength",
)
_SAME_NAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_OWN = (
    "model",
    "prompt",
    "max_tokens",
    "n",
    "best_of",
    "stream",
    "stream_options",
    "logprobs",
    "echo",
    "stop",
    "seed",
    "logit_bias",
)
_IGNORED = ("user", "suffix")
"""Fields that change nothing here: who asks, and ``suffix`` where it is empty."""


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Raises:
        InputError: if a limit is not a positive integer.
    """

    body_bytes: int = 1 << 20
    """Most bytes of a request's body."""
    max_tokens: int = 4096
    """Most tokens of one text."""
    texts: int = 32
    """Most texts a request may have generated: prompts times ``n`` or ``best_of``."""
    concurrency: int = 2
    """Requests that are worked on at once; further ones wait."""
    waiting: int = 32
    """Requests that may wait; further ones are refused (429)."""
    seconds: int = 300
    """Longest time a request is worked on (504)."""

    def __post_init__(self) -> None:
        """Check every limit."""
        for name, value in vars(self).items():
            if not is_count(value, 0 if name == "waiting" else 1):
                raise InputError(f"{name} is {value!r}; allowed is a positive integer")


@dataclass(frozen=True)
class Completion:
    """A request that has been checked.

    Attributes:
        prompts: the texts to continue.
        options: keyword arguments of ``Generator.generate``, without the seed.
        seed: of the first text; ``None`` is a fresh one for each.
        n: texts for every prompt.
        candidates: texts to generate for every prompt, of which the ``n`` best are given.
        logprobs: how many of the likeliest tokens to give at each position; ``None`` is no log-probabilities.
        echo: give the prompt before the text.
        stream: send the text as it appears.
        include_usage: end a stream with the numbers of tokens.
    """

    prompts: tuple[str, ...]
    options: Mapping[str, Any]
    seed: int | None
    n: int
    candidates: int
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool

    def seed_of(self, number: int) -> int | None:
        """The seed of the n-th text of a prompt, from 0."""
        return None if self.seed is None else (self.seed + number) % (1 << 64)


def read_completion(body: Any, generator: Generator, limits: Limits) -> Completion:
    """Read the JSON of a request.

    Args:
        body: the parsed body.
        generator: what will generate; checks the options.
        limits: what may be asked for.

    Raises:
        InputError: naming the field, its value and what is allowed.
        TokenizerError: if a prompt of token ids names an unknown id.
    """
    if not isinstance(body, dict):
        raise InputError("the body is not a JSON object; allowed are the fields of /v1/completions")
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("suffix"):
        raise InputError("suffix is given; allowed is none: the models here only continue a text")
    if unknown := sorted(set(given) - {*_OWN, *_SAME_NAME, *EXTENSIONS, *_IGNORED}):
        raise InputError(f"unknown field {unknown[0]!r}")
    n = _integer(given, "n", 1, 1, limits.texts)
    candidates = _integer(given, "best_of", n, n, limits.texts)
    echo, stream = _flag(given, "echo"), _flag(given, "stream")
    max_tokens = _integer(given, "max_tokens", DEFAULT_MAX_TOKENS, 1, limits.max_tokens)
    logprobs = _integer(given, "logprobs", 0, 0, MOST_LOGPROBS) if "logprobs" in given else None
    if stream and candidates > n:
        raise InputError(f"best_of is {candidates}; allowed with stream is {n}, the value of n")
    prompts = _prompts(given.get("prompt", ""), generator)
    if len(prompts) * candidates > limits.texts:
        asked = f"{len(prompts)} prompts, {candidates} texts each"
        raise InputError(f"prompt: {asked}; allowed are {limits.texts} texts in all")
    wants_logprobs = logprobs is not None or candidates > n
    options = {name: given[name] for name in (*_SAME_NAME, *EXTENSIONS) if name in given}
    options |= {
        "stop": _stops(given.get("stop", ())),
        "logit_bias": _bias(given.get("logit_bias")),
        "logprobs": wants_logprobs,
        "top_logprobs": logprobs or 0,
        "max_new_tokens": max_tokens,
    }
    seed = _seed(given.get("seed"))
    for prompt in prompts:  # all that can be wrong is said before the first token is sent
        generator.stream(prompt, seed=seed, **options)
    usage = given.get("stream_options", {})
    if not isinstance(usage, dict):
        raise InputError(f"stream_options is {usage!r}; allowed is an object")
    include = _flag(usage, "include_usage")
    return Completion(prompts, options, seed, n, candidates, logprobs, echo, stream, include)


def _integer(given: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = given.get(name, default)
    if not isinstance(value, int) or not is_count(value, least) or value > most:
        raise InputError(f"{name} is {value!r}; allowed is an integer from {least} to {most}")
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; allowed is true or false")
    return value


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
        raise InputError(f"seed is {value!r}; allowed is an integer of 64 bits")
    return value % (1 << 64)


def _stops(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MOST_STOPS:
        raise InputError(f"stop has {len(value)} strings; allowed are {MOST_STOPS}")
    return value


def _bias(value: Any) -> dict[int, float] | None:
    """The bias by token id; JSON has only strings as keys."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(key.isascii() and key.isdigit() for key in value):
        raise InputError(f"logit_bias is {value!r}; allowed is an object with token ids as keys")
    return {int(key[:20]): number for key, number in value.items()}


def _prompts(value: Any, generator: Generator) -> tuple[str, ...]:
    """Texts from a string, a list of strings, ids, or a list of lists of ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(text, str) for text in value):
            return tuple(value)
        lists = [value] if all(is_count(token) for token in value) else value
        if all(isinstance(ids, list) and all(is_count(token) for token in ids) for ids in lists):
            return tuple(_decode(ids, generator) for ids in lists)
    raise InputError("prompt: allowed is a string, a list of strings, token ids, or lists of token ids")


def _decode(ids: list[int], generator: Generator) -> str:
    text = generator.tokenizer.decode(ids)
    if generator.tokenizer.encode(text) != ids:
        raise InputError(f"prompt: the ids are not those of their text {text[:80]!r}; send the text")
    return text
