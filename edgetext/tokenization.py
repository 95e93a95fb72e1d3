"""Training of tokenizers; what their ids mean is defined by `edgetext_runtime.tokenizer`.

Byte-level BPE is trained with the ``tokenizers`` library; word and character vocabularies are counted. What
is written is a Hugging Face ``tokenizer.json`` that the library and the runtime read alike. Corpora are
encoded with the runtime's own tokenizer: with its cache of words it is the faster of the two.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgetext.errors import ConfigError, CorpusError
from edgetext.tokenizer_sections import DECODERS, PRE_TOKENIZERS
from edgetext_runtime.errors import DependencyError
from edgetext_runtime.tokenizer_format import (
    EOS,
    PAD,
    UNK,
    WORD_PATTERN,
    Kind,
    Pattern,
    byte_alphabet,
)

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "KINDS",
    "TokenizerKind",
    "check_tokenizer_options",
    "load_fast",
    "split_long",
    "tokenizer_document",
    "train_tokenizer",
]

TokenizerKind = Literal["bpe", "word", "char"]
KINDS: tuple[TokenizerKind, ...] = ("bpe", "word", "char")

# The special tokens and, for BPE, the 256 bytes have to fit; word and char need at least one token besides.
_SMALLEST = {"bpe": 2 + 256, "word": 3 + 1, "char": 3 + 1}
_LARGEST = 1 << 20
_DEFAULT_MIN_FREQUENCY = {"bpe": 2, "word": 2, "char": 1}

_PIECE_CHARACTERS = 1 << 18
# Cuts here never change the ids: no BPE token, word or character reaches over them.
_SAFE_CUT = re.compile(r"(?<=[A-Za-z0-9])(?=\n)|(?<=[A-Za-z])(?= [A-Za-z])")


def train_tokenizer(
    texts: Iterable[str], kind: TokenizerKind, vocab_size: int, min_frequency: int | None = None
) -> bytes:
    """Trains a tokenizer and returns its ``tokenizer.json``, compact, the same bytes for the same texts.

    Args:
        texts: documents; read once, never held together.
        kind: ``"bpe"``, ``"word"`` or ``"char"``.
        vocab_size: largest number of tokens, special tokens and single bytes included. The result is smaller
            when the texts do not hold enough different pairs, words or characters.
        min_frequency: a pair, word or character seen less often gets no token. Default: 2, for characters 1.
            Words seen once are left to ``<unk>``, which also gives ``<unk>`` something to be trained on.

    Raises:
        ConfigError: if the kind or the size is not possible.
        CorpusError: if there is no text.
        DependencyError: if the ``tokenizers`` package is missing (for BPE).
    """
    check_tokenizer_options(kind, vocab_size)
    frequency = _DEFAULT_MIN_FREQUENCY[kind] if min_frequency is None else min_frequency
    pieces = (piece for text in texts for piece in split_long(text))
    if kind == "bpe":
        model = _train_bpe(pieces, vocab_size, frequency)
    else:
        find = re.compile(WORD_PATTERN).findall if kind == "word" else str
        model = _count_vocabulary(pieces, find, vocab_size, frequency)
    document = tokenizer_document(kind, model)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def tokenizer_document(kind: Kind, model: Mapping[str, Any], pattern: Pattern = "edgetext") -> dict[str, Any]:
    """Returns the content of ``tokenizer.json`` for a ``model`` section of a kind (for BPE: and pattern)."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[kind, pattern],
        "post_processor": None,
        "decoder": DECODERS[kind],
        "model": dict(model),
    }


def check_tokenizer_options(kind: str, vocab_size: int) -> None:
    """Raises ConfigError if there can be no tokenizer of this kind and size."""
    if kind not in KINDS:
        raise ConfigError(f"unknown tokenizer {kind!r}; use --tokenizer {', '.join(KINDS)}")
    if not _SMALLEST[kind] <= vocab_size <= _LARGEST:
        raise ConfigError(
            f"a {kind} tokenizer cannot have {vocab_size} tokens; "
            f"--vocab-size takes {_SMALLEST[kind]} to {_LARGEST}"
        )


def load_fast(data: bytes) -> tokenizers.Tokenizer:
    """Returns the ``tokenizers.Tokenizer`` of a ``tokenizer.json``, for use with other libraries.

    Raises:
        DependencyError: if the ``tokenizers`` package is missing.
    """
    tokenizer: tokenizers.Tokenizer = _library().Tokenizer.from_str(data.decode())
    return tokenizer


def split_long(text: str, size: int = _PIECE_CHARACTERS) -> Iterator[str]:
    """Yields ``text`` in pieces of about ``size`` characters whose ids, joined, are those of the whole text.

    Lists of tokens and the ``tokenizers`` library need some hundred bytes of memory per character of a text,
    so a book has to be handed over in pieces. Text without a single plain line end or space is not cut.
    """
    start = 0
    while len(text) - start > size and (cut := _SAFE_CUT.search(text, start + max(size, 1))):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:] if start else text


def _train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int) -> dict[str, Any]:
    library = _library()
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    tokenizer = library.Tokenizer.from_str(json.dumps(tokenizer_document("bpe", empty)))
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts)
    tokenizer.train_from_iterator(counted, trainer)
    if not counted.characters:
        raise CorpusError("there is no text to train a tokenizer on")
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


class _Counted:
    """An iterable that knows how many characters have passed."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.characters += len(text)
            yield text


def _count_vocabulary(
    texts: Iterable[str], find: Callable[[str], Iterable[str]], vocab_size: int, min_frequency: int
) -> dict[str, Any]:
    """Gives ids to the most frequent units: by falling count, then by code points."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(find(text))
    if not counts:
        raise CorpusError("there is no text to train a tokenizer on")
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    units = [unit for unit, count in ranked if count >= min_frequency]
    tokens = [EOS, PAD, UNK, *units][:vocab_size]
    return {
        "type": "WordLevel",
        "vocab": {token: index for index, token in enumerate(tokens)},
        "unk_token": UNK,
    }


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise DependencyError("tokenizers is not installed: pip install 'edgetext[train]'") from None
    return tokenizers
