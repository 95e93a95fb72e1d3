"""What edgetext's ``tokenizer.json`` looks like: splitting patterns, the sections around them, reading it.

The file is in the format of the ``tokenizers`` library. The patterns name ASCII characters only (no classes
such as "white space" or "letter"), so they mean the same in every regex engine and Unicode version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from edgetext_runtime.errors import TokenizerError

Kind = Literal["bpe", "word", "char"]

EOS: Final = "<eos>"
PAD: Final = "<pad>"
UNK: Final = "<unk>"

# A letter: A-Z, a-z and everything outside ASCII.
_LETTER: Final = r"[^\x00-@\[-`{-\x7f]"
# The ASCII characters that are no letter, digit, blank (space, tab) or line end (CR, LF).
_OTHER: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f!-/:-@\[-`{-\x7f]"
# Every text is covered, and no alternative looks back further than one run of blanks, so time stays linear.
BPE_PATTERN: Final = "|".join(
    [
        rf"'(?:[sdmtSDMT]|ll|LL|ve|VE|re|RE)(?!{_LETTER})",  # contractions: don't -> don 't
        rf" ?{_LETTER}+",  # a space belongs to the word after it
        r" ?[0-9]{1,3}",
        rf" ?{_OTHER}+",
        r"[\r\n]+(?:[ \t]+(?![^ \t\r\n]))?",  # line ends with the indentation, less its last blank
        r"[ \t]+(?![^ \t\r\n])",  # blanks, less the one that belongs to the next word
        r"[ \t]",
    ]
)
# Underscore is a letter here, so that identifiers survive the joining of words by spaces.
_WORD: Final = r"[^\x00-/:-@\[-^`{-\x7f]"
WORD_PATTERN: Final = "|".join(
    [
        rf"{_WORD}+(?:['\-]{_WORD}+|(?<=[0-9])[.,](?=[0-9]){_WORD}+)*",  # don't, well-known, 1,000.5
        rf"'(?:s|m|d|re|ve|ll)(?!{_WORD})",  # of text that was split before: it 's
        r"\n",
        r"[\x00-\x08\x0e-\x1f!-/:-@\[-^`{-\x7f]",  # one mark; other white space separates and is dropped
    ]
)
CHAR_PATTERN: Final = r"[\x00-\x7f]|[^\x00-\x7f]"

# How words are joined again: with a space, except before and after these ...
NO_SPACE_BEFORE: Final = frozenset([*".,;:!?)]}%\n", "'s", "'m", "'d", "'re", "'ve", "'ll", "n't"])
NO_SPACE_AFTER: Final = frozenset("([{$#\n")
# ... and the same rule as a pattern on the space-joined text, for the `tokenizers` library.
JOIN_PATTERN: Final = r"(?<=[(\[{$#\n]) | (?=[.,;:!?)\]}%\n]|(?:'(?:s|m|d|re|ve|ll)|n't)(?![^ ]))"

_Json = dict[str, Any]

_UNUSED_SECTIONS: Final = ("truncation", "padding", "added_tokens", "normalizer", "post_processor")
_UNUSED_OPTIONS: Final = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
    "fuse_unk",
)


def _split(pattern: str, *, keep_matches_only: bool = False) -> _Json:
    behaviour = (
        {"behavior": "Removed", "invert": True}
        if keep_matches_only
        else {"behavior": "Isolated", "invert": False}
    )
    return {"type": "Split", "pattern": {"Regex": pattern}, **behaviour}


PRE_TOKENIZERS: Final[Mapping[str, _Json]] = {
    "bpe": {
        "type": "Sequence",
        "pretokenizers": [
            _split(BPE_PATTERN),
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    },
    "word": _split(WORD_PATTERN, keep_matches_only=True),
    "char": _split(CHAR_PATTERN),
}
DECODERS: Final[Mapping[str, _Json]] = {
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


def tokenizer_document(kind: Kind, model: Mapping[str, Any]) -> _Json:
    """Returns the content of ``tokenizer.json`` for a ``model`` section of the given kind."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[kind],
        "post_processor": None,
        "decoder": DECODERS[kind],
        "model": dict(model),
    }


def byte_alphabet() -> dict[str, int]:
    """Returns the 256 printable characters that stand for the 256 bytes in byte-level BPE.

    Source: Radford et al. 2019 (GPT-2): printable Latin-1 characters stand for themselves, the other bytes,
    in order, are the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(hidden)})
    return alphabet


@dataclass(frozen=True)
class TokenizerModel:
    """What was read: the kind, the tokens in the order of their ids, and for BPE the merges in order."""

    kind: Kind
    vocabulary: list[str]
    merges: list[tuple[str, str]]


def read_tokenizer(data: bytes | str) -> TokenizerModel:
    """Reads the text of a ``tokenizer.json`` and checks it against the three shapes.

    Raises:
        TokenizerError: if it is not valid JSON, or not a tokenizer of ours.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"tokenizer.json is not valid JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(model := document.get("model"), dict):
        raise TokenizerError("tokenizer.json is not a tokenizer: it has no model section")
    kind = _kind_of(document)
    for option in _UNUSED_OPTIONS:
        if model.get(option):
            raise TokenizerError(f"tokenizer.json: the model option {option} is not understood")
    unknown = None if kind == "bpe" else UNK
    if model.get("unk_token") != unknown:
        raise TokenizerError(f"tokenizer.json: unk_token is {model.get('unk_token')!r}, expected {unknown!r}")
    vocabulary = _vocabulary_of(model, [EOS, PAD] if kind == "bpe" else [EOS, PAD, UNK])
    return TokenizerModel(kind, vocabulary, _merges_of(model) if kind == "bpe" else [])


def _kind_of(document: _Json) -> Kind:
    for section in _UNUSED_SECTIONS:
        if document.get(section):
            raise TokenizerError(f"tokenizer.json: a {section} section is not understood")
    kinds: tuple[Kind, ...] = ("bpe", "word", "char")
    for kind in kinds:
        if (
            document["model"].get("type") == ("BPE" if kind == "bpe" else "WordLevel")
            and document.get("pre_tokenizer") == PRE_TOKENIZERS[kind]
            and document.get("decoder") == DECODERS[kind]
        ):
            return kind
    raise TokenizerError(
        "tokenizer.json is not one of edgetext's tokenizers (byte-level BPE, word or character level, with "
        "its own splitting pattern). If a newer edgetext made it: pip install -U edgetext-runtime"
    )


def _vocabulary_of(model: _Json, special: list[str]) -> list[str]:
    """Returns the tokens in the order of their ids."""
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or any(type(index) is not int for index in vocab.values()):
        raise TokenizerError("tokenizer.json: the vocabulary is not a map from tokens to ids")
    tokens: list[str] = sorted(vocab, key=vocab.__getitem__)
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        raise TokenizerError(
            f"tokenizer.json: the {len(tokens)} ids of the vocabulary are not 0 to {len(tokens) - 1}"
        )
    if tokens[: len(special)] != special:
        raise TokenizerError(f"tokenizer.json: the first tokens are {tokens[:3]}, expected {special}")
    return tokens


def _merges_of(model: _Json) -> list[tuple[str, str]]:
    """Returns the merges; both notations of the format are read, ["a", "b"] and "a b"."""
    merges: list[tuple[str, str]] = []
    rows = model.get("merges")
    for rank, row in enumerate(rows if isinstance(rows, list) else [None]):
        pair = row.split(" ") if isinstance(row, str) else row
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise TokenizerError(f"tokenizer.json: merge {rank} is not a pair of tokens")
        merges.append((pair[0], pair[1]))
    return merges
