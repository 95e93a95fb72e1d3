"""The sections of ``tokenizer.json`` that say how text is split and joined, for the ``tokenizers`` library.

What they mean is defined in `edgetext_runtime.tokenizer_format`, which knows them by their hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgetext_runtime.tokenizer_format import BPE_PATTERN, CHAR_PATTERN, WORD_PATTERN, Kind, Pattern

__all__ = ["DECODERS", "LLAMA3_REGEX", "PRE_TOKENIZERS"]

LLAMA3_REGEX: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's splitting pattern, as its tokenizer.json writes it for the library."""
JOIN_PATTERN: Final = r"(?<=[(\[{$#\n]) | (?=[.,;:!?)\]}%\n]|(?:'(?:s|m|d|re|ve|ll)|n't)(?![^ ]))"
"""Spaces of a space-joined text that do not belong there (`NO_SPACE_BEFORE`, `NO_SPACE_AFTER`)."""

_Json = dict[str, Any]


def _split(pattern: str, *, keep_matches_only: bool = False) -> _Json:
    behaviour = (
        {"behavior": "Removed", "invert": True}
        if keep_matches_only
        else {"behavior": "Isolated", "invert": False}
    )
    return {"type": "Split", "pattern": {"Regex": pattern}, **behaviour}


def _byte_level(*, use_regex: bool) -> _Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _bytes_of(split: _Json) -> _Json:
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


PRE_TOKENIZERS: Final[Mapping[tuple[Kind, Pattern], _Json]] = {
    ("bpe", "edgetext"): _bytes_of(_split(BPE_PATTERN)),
    ("bpe", "gpt2"): _byte_level(use_regex=True),
    ("bpe", "llama3"): _bytes_of(_split(LLAMA3_REGEX)),
    ("word", "edgetext"): _split(WORD_PATTERN, keep_matches_only=True),
    ("char", "edgetext"): _split(CHAR_PATTERN),
}
DECODERS: Final[Mapping[Kind, _Json]] = {
    "bpe": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "word": {
        "type": "Sequence",
        "decoders": [
            # No word starts with this prefix (# is a token of its own): it only joins with spaces.
            {"type": "WordPiece", "prefix": "##", "cleanup": False},
            {"type": "Fuse"},
            {"type": "Replace", "pattern": {"Regex": JOIN_PATTERN}, "content": ""},
        ],
    },
    "char": {"type": "Fuse"},
}
