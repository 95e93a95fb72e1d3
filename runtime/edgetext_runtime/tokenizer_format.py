"""What edgetext's ``tokenizer.json`` looks like: splitting patterns, the sections around them, reading it.

The file is in the format of the ``tokenizers`` library. edgetext's own patterns name ASCII characters only
(no classes such as "white space" or "letter"), so they mean the same in every regex engine and Unicode
version. A byte-level BPE that comes from another model may instead split by GPT-2's or Llama 3's pattern;
their classes are read as Unicode 16.0 has them (`edgetext_runtime.unicode_classes`), as the library does.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from .errors import TokenizerError

Kind = Literal["bpe", "word", "char"]
Pattern = Literal["edgetext", "gpt2", "llama3"]
"""How text is cut into words before byte-pair merges: edgetext's own way, or that of another model family."""

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

# Radford et al. 2019, as built into the library's ByteLevel step ({L}, {N}, {S}: see `character_classes`).
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+"
# Llama 3, spelt out; beyond ASCII only the long s differs from one of these letters by nothing but case.
_LLAMA3: Final = (
    r"'(?:[sS\u017ftTmMdD]|[rRvV][eE]|[lL][lL])|[^\r\n{L}{N}]?[{L}]+|[{N}]{{1,3}}| ?[^{S}{L}{N}]+[\r\n]*"
    r"|[{S}]*[\r\n]+|[{S}]+(?![^{S}])|[{S}]+"
)

# How words are joined again: with a space, except before and after these.
NO_SPACE_BEFORE: Final = frozenset([*".,;:!?)]}%\n", "'s", "'m", "'d", "'re", "'ve", "'ll", "n't"])
NO_SPACE_AFTER: Final = frozenset("([{$#\n")
_Json = dict[str, Any]

_UNUSED_SECTIONS: Final = ("truncation", "padding", "added_tokens", "normalizer", "post_processor")
_UNUSED_OPTIONS: Final = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "fuse_unk",
)


_SHAPES: Final[Mapping[str, tuple[Kind, Pattern]]] = {
    "f86c7ab0bed23c622f80ed86060aa516": ("bpe", "edgetext"),
    "40e44c225422549a7e7329ad72eb47e3": ("bpe", "gpt2"),
    "c1d6e9a5c43e272cccbedf227f36cf51": ("bpe", "llama3"),
    "49660811674530b38fccf0e14e0e257b": ("word", "edgetext"),
    "486c17505181788b873eae9695afde05": ("char", "edgetext"),
}
"""By `shape_mark`: what the sections are that `edgetext.tokenizer_sections` writes for these patterns."""


def shape_mark(document: Mapping[str, Any]) -> str:
    """Returns a name for how a tokenizer.json splits and joins text: a hash of the sections that say so."""
    sections = [document["model"].get("type"), document.get("pre_tokenizer"), document.get("decoder")]
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()[:32]


def word_splitter(pattern: Pattern) -> Callable[[str], list[str]]:
    """Returns the function that cuts a text into words, which no merge reaches over; joined, the text."""
    if pattern == "edgetext":
        return re.compile(BPE_PATTERN).findall
    # The classes of Unicode are long; ASCII text is split as well, and sooner, by their ASCII part.
    short, full = _compiled(pattern, True), _compiled(pattern, False)
    return lambda text: (short if text.isascii() else full).findall(text)


@cache
def _compiled(pattern: Pattern, ascii_only: bool) -> re.Pattern[str]:
    from .unicode_classes import character_classes  # edgetext's own pattern needs none

    letters, numbers, white_space = character_classes(ascii_only=ascii_only)
    source = _GPT2 if pattern == "gpt2" else _LLAMA3
    return re.compile(source.format(L=letters, N=numbers, S=white_space))


def byte_alphabet() -> dict[str, int]:
    """Returns the 256 printable characters that stand for the 256 bytes in byte-level BPE.

    Source: Radford et al. 2019 (GPT-2): printable Latin-1 characters stand for themselves, the other bytes,
    in order, are the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted({*range(256)}.difference(printable))
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(hidden)})
    return alphabet


class TokenizerModel(NamedTuple):
    """What was read: the kind, the tokens in the order of their ids, and for BPE the merges in order.

    Attributes:
        pattern: how BPE cuts a text into words.
        ignore_merges: a word in the vocabulary is one token, whatever the merges make of it (BPE).
    """

    kind: Kind
    vocabulary: list[str]
    merges: list[tuple[str, str]]
    pattern: Pattern = "edgetext"
    ignore_merges: bool = False


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
    kind, pattern = _kind_of(document)
    for option in _UNUSED_OPTIONS:
        if model.get(option):
            raise TokenizerError(f"tokenizer.json: the model option {option} is not understood")
    ignore_merges = model.get("ignore_merges") or False
    if ignore_merges and (pattern == "edgetext" or ignore_merges is not True):
        raise TokenizerError("tokenizer.json: the model option ignore_merges is not understood")
    unknown = None if kind == "bpe" else UNK
    if model.get("unk_token") != unknown:
        raise TokenizerError(f"tokenizer.json: unk_token is {model.get('unk_token')!r}, expected {unknown!r}")
    vocabulary = _vocabulary_of(model, [EOS, PAD] if kind == "bpe" else [EOS, PAD, UNK])
    merges = _merges_of(model) if kind == "bpe" else []
    return TokenizerModel(kind, vocabulary, merges, pattern, ignore_merges)


def _kind_of(document: _Json) -> tuple[Kind, Pattern]:
    for section in _UNUSED_SECTIONS:
        if document.get(section):
            raise TokenizerError(f"tokenizer.json: a {section} section is not understood")
    if shape := _SHAPES.get(shape_mark(document)):
        return shape
    raise TokenizerError(
        "tokenizer.json is not one of edgetext's tokenizers (byte-level BPE, word or character level, with "
        "one of its splitting patterns). If a newer edgetext made it: pip install -U edgetext-runtime"
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
        pair = row.split(" ") if type(row) is str else row
        if type(pair) is not list or len(pair) != 2 or not type(pair[0]) is type(pair[1]) is str:
            raise TokenizerError(f"tokenizer.json: merge {rank} is not a pair of tokens")
        merges.append((pair[0], pair[1]))
    return merges
