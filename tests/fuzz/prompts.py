"""Hostile prompts and parameters for ``generate`` and its kin, drawn from seeded random numbers."""

import random
import string
from typing import Any

from fuzz.mutations import ODD_NUMBERS

TEXTS = (
    "", " ", "\x00", "\ud800", "\udfff\ud800", "a" * 5000, "é" * 700, "\u202e\u0000\ufeff", "<eos>", "<pad><unk>",
    "👩‍👩‍👧‍👦" * 50, "\r\n\t" * 100, "%s%n{0}", "ab cd", "日本語", "a\u0301" * 300, "\x7f\x1b[2J",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *ODD_NUMBERS, None, True, False, "", "x", b"x", [], {}, (), [None], float("nan"), float("inf"), -float("inf"), 1e-320,
    1e308, 0.5, 1.0, -0.0, 1 + 2j, object(), int, {"a": 1}, {0: 1.0}, {0: float("nan")}, {-1: 1}, [[]], range(3),
)  # fmt: skip
PATTERNS = (
    "", "a", "a*", "(a|b)*c", "[a-z]{2,5}", "(", ")", "[", "a{1000}", "(a*)*", "((((a{9}){9}){9}){9})", "a{99999999}",
    "\\d+", "\\", "[^a]", "a|", ".*", "(?=a)", "(?P<x>a)(?P=x)", "\\1", "[z-a]", "[\\w-]", "^a$", "a**", "\U0001f600",
)  # fmt: skip
SCHEMAS: tuple[Any, ...] = (
    {}, {"type": "object"}, {"enum": ["a", 1, None]}, {"const": "a"}, {"type": "string", "maxLength": 10**9},
    {"type": "array", "items": {"type": "array", "items": {}}}, {"$ref": "#"}, {"type": "nothing"}, {"type": 3},
    {"enum": []}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"anyOf": [{}] * 100}, {"minimum": "x"},
)  # fmt: skip
SENSIBLE: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (1, 2, 8, 20, 30),
    "min_new_tokens": (0, 1, 5),
    "temperature": (0, 0.5, 1.0, 2.0, 1e-30, 1e30),
    "top_k": (0, 1, 5, 10**9),
    "top_p": (1.0, 0.5, 1e-30),
    "min_p": (0.0, 0.5, 0.999),
    "typical_p": (1.0, 0.5, 1e-6),
    "repetition_penalty": (1.0, 0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "no_repeat_ngram_size": (0, 1, 2, 1000),
    "logit_bias": ({0: -float("inf")}, {3: 1e6}, {}, {0: 1.0, 5: -1e6}),
    "bad_words": ([], ["a"], ["ab", "b"], list(string.ascii_lowercase), ["x" * 3000]),
    "seed": (0, 1, 2**64 - 1),
    "stop": ((), "a", ["ab", "b"], ["\x00"], ["a"] * 500),
    "choices": (["a", "b"], ["ab"], ["é", "日"], ["a" * 200], [str(n) for n in range(300)]),
    "regex": PATTERNS,
    "json_schema": SCHEMAS,
    "num_beams": (1, 2, 4),
    "length_penalty": (-10, 0, 10),
    "best_of": (1, 2, 3),
    "logprobs": (True, False),
    "top_logprobs": (0, 1, 64),
    "context_policy": ("error", "truncate_left", "slide"),
}


def _nothing(_: Any, __: Any) -> None:
    """A processor that changes nothing."""


def _shape(logits: Any, _: Any) -> Any:
    return logits[:3]


def _text(_: Any, __: Any) -> Any:
    return "logits"


def _nan(logits: Any, _: Any) -> Any:
    return logits * float("nan")


def _raise(_: Any, __: Any) -> Any:
    raise KeyError("the caller's own error")


PROCESSORS = (_nothing, _shape, _text, _nan)


def prompt(chance: random.Random) -> Any:
    """A prompt: mostly text, sometimes what is none."""
    kind = chance.randrange(10)
    if kind == 0:
        return chance.choice(VALUES)
    if kind < 5:
        return chance.choice(TEXTS)
    alphabet = (
        string.ascii_lowercase + " .,\n"
        if kind < 8
        else [chr(c) for c in (0, 0xD800, 0x10FFFF, 0x300, 65, 233)]
    )
    return "".join(chance.choices(alphabet, k=chance.choice((1, 3, 10, 40, 300))))


def options(chance: random.Random) -> dict[str, Any]:
    """Up to six options, each sensible or not."""
    result: dict[str, Any] = {"max_new_tokens": chance.choice(SENSIBLE["max_new_tokens"])}
    for name in chance.sample(sorted(SENSIBLE), chance.randrange(7)):
        hostile = chance.random() < 0.25
        result[name] = chance.choice(VALUES if hostile else SENSIBLE[name])
        if result[name] is None or (name == "max_new_tokens" and hostile and result[name] in ODD_NUMBERS[5:]):
            result[name] = 5  # a long text is not what is tested
    if chance.random() < 0.1:
        result["processors"] = chance.choice(([chance.choice(PROCESSORS)], chance.choice(VALUES)))
    if chance.random() < 0.02:
        result[chance.choice(("max_length", "topk", ""))] = 1
    return result
