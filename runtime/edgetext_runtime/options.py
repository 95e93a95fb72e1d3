"""The options of a generation: as callers give them, and resolved against the bundle's defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from .errors import InputError
from .manifest import is_count
from .processors import LogitsProcessor
from .sampling import (
    GenerationDefaults,
    SamplingParams,
    check_number,
    check_seed,
    is_number,
)
from .stopping import check_stops

ContextPolicy = Literal["error", "truncate_left", "slide"]
ChooseBy = Literal["likelihood", "top", "resample"]
MOST_BEAMS = 256
MOST_CANDIDATES = 1024
MOST_LIKELIEST = 64


class Condition(TypedDict, total=False):
    """Those of `Options` that say what the text should be."""

    label: str | None
    label_strength: float | None


class Options(Condition, total=False):
    """Keyword arguments of ``generate``, ``stream`` and their kin; ``None`` means "not given".

    How the next token is chosen (not given: the bundle's own setting):

    - ``temperature``: 0 is greedy; lower is safer, higher more varied.
    - ``top_k``: sample among the k likeliest tokens; 0 is all.
    - ``top_p``: sample among the likeliest tokens that together reach this probability, (0, 1].
    - ``min_p``: drop tokens less likely than this share of the likeliest, [0, 1).
    - ``seed``: 0 to 2**64 - 1, for the same text again; default: a fresh one, given in the result.

    Where the text ends:

    - ``max_new_tokens``: most tokens to generate, at least 1 (not given: the bundle's own setting).
    - ``min_new_tokens``: tokens before the model may end the text; 0 is no minimum.
    - ``stop``: end the text before the first of these strings; not together with a constraint.

    What changes the model's choice, on the host (defined in `processors`):

    - ``typical_p``: sample among the tokens of typical surprise that reach this probability, (0, 1].
    - ``repetition_penalty``: above 1 disfavours tokens of the prompt and the text so far; 1 is off.
    - ``presence_penalty``, ``frequency_penalty``: taken off the logits of tokens of the text so far, once,
      and for every time; -2 to 2.
    - ``no_repeat_ngram_size``: no n tokens in a row appear twice; 0 is off.
    - ``logit_bias``: token id → number added to its logit; ``-inf`` bans it.
    - ``bad_words``: strings that the text never contains, however they are cut into tokens.
    - ``processors``: your own functions on the logits.

    What the text must be, one of (`constraints`):

    - ``choices``: one of these strings.
    - ``regex``: a full match of this pattern.
    - ``json_schema``: a JSON document of this schema.

    How the search goes:

    - ``num_beams``: above 1: beam search, which needs no seed; ``length_penalty`` is its exponent of length.
    - ``best_of``: generate this many with the seeds from ``seed`` on and keep one.
    - ``choose_by``: which: ``"likelihood"`` (the default: the best mean log-probability); by the bundle's
      discriminator, ``"top"`` (the one it rates highest) or ``"resample"`` (drawn in proportion to
      exp(logit): closer to the corpus, where the top-rated is only safer).

    What the text should be, of a model with labels (`conditions`):

    - ``label``: one of them; ``label_strength``: 1 (the default) is as learned, more is further from others.

    And:

    - ``logprobs``: give the log-probability of every token (costs a pass over the vocabulary for each).
    - ``top_logprobs``: with them, those of this many likeliest tokens; not with beams.
    - ``context_policy``: ``"error"`` (the default), ``"truncate_left"`` or ``"slide"``: what happens when a
      text outgrows a Transformer's context (`context`).
    """

    max_new_tokens: int | None
    min_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram_size: int | None
    logit_bias: Mapping[int, float] | None
    bad_words: Sequence[str] | None
    processors: Sequence[LogitsProcessor] | None
    seed: int | None
    stop: str | Sequence[str] | None
    choices: Sequence[str] | None
    regex: str | None
    json_schema: Mapping[str, Any] | None
    num_beams: int | None
    length_penalty: float | None
    best_of: int | None
    choose_by: ChooseBy | None
    logprobs: bool | None
    top_logprobs: int | None
    context_policy: ContextPolicy | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that have been checked; the names are those of `Options`.

    Raises:
        InputError: naming the option, its value and what is allowed.
    """

    sampling: SamplingParams
    max_new_tokens: int
    seed: int
    min_new_tokens: int = 0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] | None = None
    bad_words: Sequence[str] = ()
    processors: Sequence[LogitsProcessor] = ()
    stop: tuple[str, ...] = ()
    choices: Sequence[str] | None = None
    regex: str | None = None
    json_schema: Mapping[str, Any] | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    best_of: int = 1
    choose_by: ChooseBy = "likelihood"
    logprobs: bool = False
    top_logprobs: int = 0
    context_policy: ContextPolicy = "error"
    label: str | None = None
    label_strength: float = 1.0

    def __post_init__(self) -> None:
        """Check every option, alone and against the others."""
        self._check_numbers()
        self._check_texts()
        best, beams, by, policy = self.best_of, self.num_beams, self.choose_by, self.context_policy
        check_number("best_of", best, best == 1 or beams == 1, "1 with num_beams")
        check_number("choose_by", by, by in get_args(ChooseBy), ", ".join(get_args(ChooseBy)))
        check_number(
            "choose_by", by, by == "likelihood" or best > 1, "'likelihood' without a best_of above 1"
        )
        ok = policy != "slide" or beams == 1
        check_number("context_policy", policy, ok, "'error' or 'truncate_left' with num_beams")

    def _check_numbers(self) -> None:
        n = self.max_new_tokens
        least, beams, best = self.min_new_tokens, self.num_beams, self.best_of
        check_number("min_new_tokens", least, is_count(least) and least <= n, f"an integer from 0 to {n}")
        p, r = self.typical_p, self.repetition_penalty
        check_number("typical_p", p, is_number(p) and 0 < p <= 1, "a number above 0 and up to 1 (1: off)")
        check_number("repetition_penalty", r, is_number(r) and 0.01 <= r <= 100, "a number from 0.01 to 100")
        for name in ("presence_penalty", "frequency_penalty", "length_penalty"):
            value, bound = getattr(self, name), 10 if name == "length_penalty" else 2
            ok = is_number(value) and abs(value) <= bound
            check_number(name, value, ok, f"a number from {-bound} to {bound}")
        size = self.no_repeat_ngram_size
        check_number("no_repeat_ngram_size", size, is_count(size), "an integer of at least 0 (0: off)")
        check_number("num_beams", beams, is_count(beams, 1) and beams <= MOST_BEAMS, f"1 to {MOST_BEAMS}")
        most = MOST_CANDIDATES
        check_number("best_of", best, is_count(best, 1) and best <= most, f"an integer from 1 to {most}")
        check_number("logprobs", self.logprobs, isinstance(self.logprobs, bool), "True or False")
        top, ok = self.top_logprobs, is_count(self.top_logprobs) and self.top_logprobs <= MOST_LIKELIEST
        ok = ok and (top == 0 or (self.logprobs and beams == 1))
        check_number("top_logprobs", top, ok, f"0 to {MOST_LIKELIEST}, with logprobs and without beams")

    def _check_texts(self) -> None:
        for name in ("bad_words", "choices"):
            value = getattr(self, name)
            if value is None or (name == "bad_words" and value in ((), [])):
                continue
            ok = not isinstance(value, str) and isinstance(value, Sequence) and len(value) > 0
            ok = ok and all(isinstance(text, str) and text != "" for text in value)
            check_number(name, value, ok, "a list of strings of at least one character")
        ok = isinstance(self.processors, Sequence) and all(map(callable, self.processors))
        check_number("processors", self.processors, ok, "a list of functions")
        bias = self.logit_bias
        check_number("logit_bias", bias, bias is None or isinstance(bias, Mapping), "a dictionary")
        check_number("regex", self.regex, self.regex is None or isinstance(self.regex, str), "a pattern")
        schema = self.json_schema
        check_number("json_schema", schema, schema is None or isinstance(schema, Mapping), "a dictionary")
        policy, known = self.context_policy, get_args(ContextPolicy)
        check_number("context_policy", policy, policy in known, ", ".join(known))
        given = [name for name in ("choices", "regex", "json_schema") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are given together; allowed is one constraint")
        ok = not (given and self.stop)
        check_number("stop", self.stop, ok, "none with a constraint, which says itself where the text ends")

    @property
    def on_host(self) -> bool:
        """Whether tokens are chosen on the host: whether anything is used that the graph cannot."""
        return (
            self.typical_p < 1
            or self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.no_repeat_ngram_size > 0
            or self.min_new_tokens > 0
            or bool(self.logit_bias or self.bad_words or self.processors)
            or self.constrained
        )

    @property
    def constrained(self) -> bool:
        """Whether the text must satisfy a constraint."""
        return not (self.choices is None and self.regex is None and self.json_schema is None)


_NATIVE = {"temperature", "top_k", "top_p", "min_p"}


def resolve(defaults: GenerationDefaults, options: Mapping[str, Any]) -> Settings:
    """The settings of a generation: the options given, the bundle's defaults, and a seed.

    Args:
        defaults: the bundle's.
        options: as in `Options`.

    Raises:
        InputError: if an option is unknown or out of range.
    """
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        known = ", ".join(sorted(Options.__annotations__))
        raise InputError(f"unknown option {unknown[0]!r}; allowed are {known}")
    given = {name: value for name, value in options.items() if value is not None}
    native = {name: given.pop(name) for name in _NATIVE & set(given)}
    base = defaults.override(max_new_tokens=given.pop("max_new_tokens", None), **native)
    stop = check_stops(given.pop("stop", ()))
    seed = check_seed(given.pop("seed", None))
    return Settings(sampling=base.sampling, max_new_tokens=base.max_new_tokens, seed=seed, stop=stop, **given)
