"""Byte-pair encoders of other models: read into our format, and cut down without changing what they do."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext.tokenization import tokenizer_document
from edgetext.tokenizer_sections import LLAMA3_REGEX
from edgetext_runtime.tokenizer_format import Pattern, byte_alphabet

__all__ = ["keep_tokens", "translate"]

Merges = Sequence[tuple[str, str]]

_CHANGES_TEXT = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "fuse_unk")
"""Options of a BPE model under which it is not the plain byte-level one."""


def translate(
    data: bytes, special: Sequence[str], without: Container[int] = ()
) -> tuple[dict[str, Any], list[int]]:
    """Rewrite a byte-level BPE tokenizer.json of another model in our format.

    Returns the document, whose tokens are `special` and then the other model's in the order of its ids (less
    its special tokens and the ids `without`), and those ids. Raises ValueError saying what is in the way.
    """
    document = json.loads(data)
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise ValueError(f"it is of the kind {kind or 'unknown'}, not BPE")
    for option in _CHANGES_TEXT:
        if model.get(option):
            raise ValueError(f"it sets {option}, so it is not byte-level")
    if document.get("normalizer"):
        raise ValueError(f"it changes the text first (normalizer {document['normalizer'].get('type')})")
    pattern = _pattern_of(document.get("pre_tokenizer"))
    added = document.get("added_tokens") or []
    plain = [token["content"] for token in added if not token.get("special")]
    if plain:
        raise ValueError(f"it cuts {plain[0]!r} out of texts before it splits them (added_tokens)")
    alphabet = byte_alphabet()
    skipped = {token["content"] for token in added} | set(special)
    tokens = sorted(
        (
            token
            for token, index in model["vocab"].items()
            if token not in skipped and index not in without and set(token) <= alphabet.keys()
        ),
        key=model["vocab"].__getitem__,
    )
    vocab = {token: index for index, token in enumerate([*special, *tokens])}
    lacking = next((character for character in alphabet if character not in vocab), None)
    if lacking is not None:
        raise ValueError(f"it has no token for byte 0x{alphabet[lacking]:02x}")
    section: dict[str, Any] = {"type": "BPE", "vocab": vocab, "merges": _merges(model, set(tokens))}
    if model.get("ignore_merges"):
        section["ignore_merges"] = True
    return tokenizer_document("bpe", section, pattern), [model["vocab"][token] for token in tokens]


def keep_tokens(vocabulary: Sequence[str], merges: Merges, counts: NDArray[np.int64], size: int) -> list[int]:
    """Return the ids of the at most `size` tokens to keep, rising: special tokens, bytes, the most needed.

    A token is needed as often as it occurs or one is merged through it, so that whatever a kept token is
    merged from is kept too. Hence the pair that the full list of merges would take next is always in the
    short one: text whose tokens are all kept is cut by both alike.
    """
    alphabet = byte_alphabet()
    ids = {token: index for index, token in enumerate(vocabulary)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    needed = counts.copy()
    for index in (np.flatnonzero(counts[2:]) + 2).tolist():
        for part in _merged_from(vocabulary[index], ranks):
            if (own := ids[part]) != index:
                needed[own] += counts[index]
    always = [0, 1, *(index for index in range(2, len(vocabulary)) if vocabulary[index] in alphabet)]
    held = set(always)
    others = [int(index) for index in np.flatnonzero(needed) if int(index) not in held]
    others.sort(key=lambda index: (-int(needed[index]), len(vocabulary[index]), index))
    return sorted([*always, *others[: max(0, size - len(always))]])


def _merged_from(token: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """Return the tokens that a token's bytes become on the way to it: best rank first, then leftmost."""
    symbols = list(token)
    seen: set[str] = set()
    while len(symbols) > 1:
        pairs = [(ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(symbols))]
        rank, at = min(pairs)
        if rank == len(ranks):
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        seen.add(symbols[at])
    return seen


def _pattern_of(section: Any) -> Pattern:
    """Recognise how a tokenizer splits text into words. Raises ValueError if it is none of ours."""
    steps = section.get("pretokenizers", [section]) if isinstance(section, dict) else []
    last = steps[-1] if steps and isinstance(steps[-1], dict) else {}
    if last.get("type") != "ByteLevel":
        kinds = [step.get("type") for step in steps if isinstance(step, dict)]
        raise ValueError(f"it is not byte-level (pre_tokenizer {', '.join(map(str, kinds)) or 'none'})")
    if last.get("add_prefix_space", True):
        raise ValueError("it puts a space before every text (add_prefix_space)")
    if len(steps) == 1 and last.get("use_regex", True):
        return "gpt2"
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_REGEX}, "behavior": "Isolated", "invert": False}
    if len(steps) == 2 and steps[0] == split and not last.get("use_regex", True):
        return "llama3"
    raise ValueError("it splits text by another pattern than GPT-2's or Llama 3's (pre_tokenizer)")


def _merges(model: Mapping[str, Any], kept: set[str]) -> list[list[str]]:
    """Return the merges between tokens that are kept; both notations are read, ["a", "b"] and "a b"."""
    rows = [row.split(" ") if isinstance(row, str) else row for row in model.get("merges") or []]
    return [[a, b] for a, b in rows if {a, b, a + b} <= kept]
