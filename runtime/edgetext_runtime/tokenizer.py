"""Text to token ids and back, from a Hugging Face ``tokenizer.json``, with the standard library alone.

Three kinds are understood, as `edgetext.tokenization` writes them: byte-level BPE (``bpe``), words and
punctuation (``word``) and single code points (``char``). Ids and bytes equal those of the ``tokenizers``
library: `edgetext_runtime.tokenizer_format` says why. A file with another splitting pattern is refused.

The special tokens (``<eos>`` 0, ``<pad>`` 1 and, for ``word`` and ``char``, ``<unk>`` 2) are entries of the
vocabulary only, never "added tokens": no text encodes to ``<eos>`` or ``<pad>``. They all decode to nothing.
"""

import codecs
import heapq
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final

from .errors import TokenizerError
from .tokenizer_format import (
    NO_SPACE_AFTER,
    NO_SPACE_BEFORE,
    WORD_PATTERN,
    Kind,
    Pattern,
    byte_alphabet,
    read_tokenizer,
    word_splitter,
)

__all__ = ["BpeTokenizer", "CharTokenizer", "StreamDecoder", "Tokenizer", "WordTokenizer"]


_CACHED_WORDS: Final = 16_384
_CACHED_WORD_LENGTH: Final = 64


class Tokenizer(ABC):
    """A tokenizer read from ``tokenizer.json``; made by `Tokenizer.from_json`.

    Attributes:
        kind: ``"bpe"``, ``"word"`` or ``"char"``.
        vocab_size: number of ids V; valid ids are 0 .. V-1.
        eos_id: 0, the document boundary, also put before a prompt.
        pad_id: 1.
        unk_id: 2 for word and char tokenizers, None for BPE, which can code every text.
    """

    kind: Kind
    eos_id: int = 0
    pad_id: int = 1
    unk_id: int | None = 2

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Takes the tokens in the order of their ids."""
        self.vocab_size = len(vocabulary)
        try:
            self._pieces = [token.encode() for token in vocabulary]
        except UnicodeEncodeError as error:
            raise TokenizerError(f"the vocabulary holds a lone surrogate: {error.object!r:.80}") from None
        for special in (self.eos_id, self.pad_id, self.unk_id):
            if special is not None:
                self._pieces[special] = b""

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Ids that are never sampled, though a model may expect them: padding and unknown words."""
        return (self.pad_id,) if self.unk_id is None else (self.pad_id, self.unk_id)

    @staticmethod
    def from_json(data: bytes | str) -> "Tokenizer":
        """Reads the text of a ``tokenizer.json``.

        Raises:
            TokenizerError: if it is not valid JSON or not one of the three shapes described in this module.
        """
        model = read_tokenizer(data)
        if model.kind == "bpe":
            return BpeTokenizer(
                model.vocabulary, model.merges, pattern=model.pattern, ignore_merges=model.ignore_merges
            )
        return WordTokenizer(model.vocabulary) if model.kind == "word" else CharTokenizer(model.vocabulary)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the ids of ``text``, without special tokens around them.

        Raises:
            TokenizerError: if the text holds a lone surrogate, which no encoding can express.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        Raises:
            TokenizerError: if an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of ``ids``: for BPE just what the tokens stand for, else the text in UTF-8."""
        pieces = []
        previous = self.eos_id
        for token in ids:
            if piece := self._piece(token, previous):
                pieces.append(piece)
                previous = token
        return b"".join(pieces)

    def stream(self) -> "StreamDecoder":
        """Returns a decoder that takes one id at a time."""
        return StreamDecoder(self)

    def _piece(self, token: int, previous: int) -> bytes:
        """Returns what ``token`` adds after ``previous`` (the last token that gave any; at first eos)."""
        if 0 <= token < self.vocab_size:
            return self._pieces[token]
        raise TokenizerError(f"token id {token} is not in the vocabulary (0 to {self.vocab_size - 1})")


class StreamDecoder:
    """Decodes one id at a time, never emitting half a character.

    The pieces of all `push` calls and of one `flush`, joined, equal ``Tokenizer.decode`` of the same ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._previous = tokenizer.eos_id

    def push(self, token: int) -> str:
        """Returns the text that ``token`` completes, which may be empty."""
        piece = self._tokenizer._piece(token, self._previous)
        if not piece:
            return ""
        self._previous = token
        return self._utf8.decode(piece)

    def flush(self) -> str:
        """Returns what is left (U+FFFD for an unfinished character) and starts anew."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._previous = self._tokenizer.eos_id
        return rest


class BpeTokenizer(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes: Radford et al. 2019)."""

    kind: Kind = "bpe"
    unk_id: int | None = None

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[tuple[str, str]],
        *,
        pattern: Pattern = "edgetext",
        ignore_merges: bool = False,
    ) -> None:
        """Takes the tokens in the order of their ids, and the merges in the order they were learnt.

        ``pattern`` says how a text is cut into words first; with ``ignore_merges`` a word that is in the
        vocabulary is one token, whatever the merges make of it.
        """
        super().__init__(vocabulary)
        self._split = word_splitter(pattern)
        self._words: dict[str, list[int]] = {}
        alphabet = byte_alphabet()
        ids = {token: index for index, token in enumerate(vocabulary)}
        self._byte_ids = [0] * 256
        # A character of the alphabet becomes that of its byte, any other of Latin-1 one that Latin-1 has not.
        table = dict.fromkeys(range(256), 0xFFFF) | {ord(c): byte for c, byte in alphabet.items()}
        try:
            self._pieces[2:] = [token.translate(table).encode("latin-1") for token in vocabulary[2:]]
        except UnicodeEncodeError:
            index = next(n for n in range(2, len(vocabulary)) if not set(vocabulary[n]) <= alphabet.keys())
            raise TokenizerError(
                f"token {index} of the BPE vocabulary, {vocabulary[index]!r}, is not byte-level"
            ) from None
        for character, byte in alphabet.items():
            if character not in ids:
                raise TokenizerError(f"the BPE vocabulary has no token for byte 0x{byte:02x}")
            self._byte_ids[byte] = ids[character]
        # Words that are one token without any merging.
        self._whole = (
            dict(zip(self._pieces[2:], range(2, self.vocab_size), strict=True)) if ignore_merges else {}
        )
        # (left id, right id) -> (rank, id of the merged token)
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        try:
            for rank, (left, right) in enumerate(merges):
                self._merges[ids[left], ids[right]] = (rank, ids[left + right])
        except KeyError:
            raise TokenizerError(
                f"merge {rank}, {left!r} with {right!r}, uses tokens not in the vocabulary"
            ) from None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of ``text``; see `Tokenizer.encode`."""
        _reject_surrogates(text)
        ids: list[int] = []
        words = self._words
        for word in self._split(text):
            coded = words.get(word)
            if coded is None:
                coded = self._encode_word(word.encode())
                if len(word) <= _CACHED_WORD_LENGTH:
                    if len(words) >= _CACHED_WORDS:
                        words.clear()
                    words[word] = coded
            ids += coded
        return ids

    def _encode_word(self, word: bytes) -> list[int]:
        """Merges pairs, best rank first and leftmost first among equals, in O(n log n)."""
        if (whole := self._whole.get(word)) is not None:
            return [whole]
        merges = self._merges
        symbols = [self._byte_ids[byte] for byte in word]
        size = len(symbols)
        # A doubly linked list over positions; a merged-away position holds -1.
        following = [*range(1, size), -1]
        preceding = [*range(-1, size - 1)]
        queue = []
        for at in range(size - 1):
            if found := merges.get((symbols[at], symbols[at + 1])):
                queue.append((found[0], at, found[1]))
        heapq.heapify(queue)
        while queue:
            _, at, merged = heapq.heappop(queue)
            right = following[at]
            if symbols[at] < 0 or right < 0:
                continue
            found = merges.get((symbols[at], symbols[right]))
            if found is None or found[1] != merged:
                continue  # one of the two has been merged with another since
            symbols[at] = merged
            symbols[right] = -1
            after = following[at] = following[right]
            if after >= 0:
                preceding[after] = at
                if found := merges.get((merged, symbols[after])):
                    heapq.heappush(queue, (found[0], at, found[1]))
            before = preceding[at]
            if before >= 0 and (found := merges.get((symbols[before], merged))):
                heapq.heappush(queue, (found[0], before, found[1]))
        return [symbol for symbol in symbols if symbol >= 0]


class _ListedTokenizer(Tokenizer):
    """Knows units of text, those of its vocabulary; whatever is not there is ``<unk>``."""

    _unit: str

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Takes the tokens in the order of their ids."""
        super().__init__(vocabulary)
        for index, token in enumerate(vocabulary[3:], start=3):
            if self._split(token) != [token]:
                raise TokenizerError(f"token {index} of the vocabulary, {token!r}, is not one {self._unit}")
        self._ids = {token: index for index, token in enumerate(vocabulary)}

    @abstractmethod
    def _split(self, text: str) -> list[str]:
        """Returns the units of a text."""

    def encode(self, text: str) -> list[int]:
        """Returns the ids of ``text``; see `Tokenizer.encode`."""
        _reject_surrogates(text)
        find = self._ids.get
        return [find(unit, 2) for unit in self._split(text)]


class WordTokenizer(_ListedTokenizer):
    """Words, single punctuation marks and line ends."""

    kind: Kind = "word"
    _unit = "word or mark"
    _pattern = re.compile(WORD_PATTERN)

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Takes the tokens in the order of their ids."""
        super().__init__(vocabulary)
        self._tight_before = [token in NO_SPACE_BEFORE for token in vocabulary]
        self._tight_after = [token in NO_SPACE_AFTER for token in vocabulary]
        self._tight_after[self.eos_id] = True  # stands for the beginning of the text

    def _split(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def _piece(self, token: int, previous: int) -> bytes:
        piece = super()._piece(token, previous)
        if not piece or self._tight_before[token] or self._tight_after[previous]:
            return piece
        return b" " + piece


class CharTokenizer(_ListedTokenizer):
    """One token per Unicode code point."""

    kind: Kind = "char"
    _unit = "character"

    def _split(self, text: str) -> list[str]:
        return list(text)


def _reject_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start}), "
            "which is not a character; decode the text again with errors='replace'"
        ) from None
