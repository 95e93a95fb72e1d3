"""Training of tokenizers: determinism, sizes, and cutting long texts without changing their ids."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetext.errors import ConfigError, CorpusError
from edgetext.tokenization import KINDS, load_fast, split_long, train_tokenizer
from edgetext_runtime.tokenizer import Tokenizer

LINES = [
    f"Line {number} of a text about {word} and other things.\n" for number, word in enumerate("abc" * 40)
]


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_the_same_bytes_in_another_process(kind):
    program = (
        "import sys; from edgetext.tokenization import train_tokenizer\n"
        f"sys.stdout.buffer.write(train_tokenizer({LINES!r}, {kind!r}, 300))"
    )
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=_root())
    assert again.stdout == train_tokenizer(iter(LINES), kind, 300)


def _root() -> Path:
    return Path(__file__).parents[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_compact_and_has_no_added_tokens(kind):
    data = train_tokenizer(LINES, kind, 300)
    document = json.loads(data)
    assert document["added_tokens"] == []
    assert b"\n " not in data
    assert data == json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def test_special_tokens_come_first():
    vocabularies = {kind: json.loads(train_tokenizer(LINES, kind, 300))["model"]["vocab"] for kind in KINDS}
    assert sorted(vocabularies["bpe"].values()) == list(range(len(vocabularies["bpe"])))
    for vocabulary in vocabularies.values():
        assert (vocabulary["<eos>"], vocabulary["<pad>"]) == (0, 1)
    assert vocabularies["word"]["<unk>"] == vocabularies["char"]["<unk>"] == 2
    assert "<unk>" not in vocabularies["bpe"]


def test_vocab_size_is_an_upper_bound():
    for kind, smallest in (("bpe", 258), ("word", 4), ("char", 4)):
        assert Tokenizer.from_json(train_tokenizer(LINES, kind, smallest)).vocab_size == smallest
    assert Tokenizer.from_json(train_tokenizer(LINES, "char", 5000)).vocab_size < 60


def test_rare_words_are_unknown():
    counted = Tokenizer.from_json(train_tokenizer(["red red car"], "word", 10))
    assert [counted.decode([token]) for token in counted.encode("red car")] == ["red", ""]
    every = Tokenizer.from_json(train_tokenizer(["red red car"], "word", 10, min_frequency=1))
    assert every.decode(every.encode("red car")) == "red car"


@pytest.mark.parametrize(
    ("kind", "size", "named"),
    [
        ("bpe", 257, "--vocab-size"),
        ("char", 3, "--vocab-size"),
        ("word", 1 << 30, "--vocab-size"),
        ("x", 9, "--tok"),
    ],
)
def test_impossible_options_name_the_flag(kind, size, named):
    with pytest.raises(ConfigError, match=named):
        train_tokenizer(LINES, kind, size)


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_an_error(kind):
    with pytest.raises(CorpusError, match="no text"):
        train_tokenizer([], kind, 300)


def test_an_error_in_the_texts_comes_through():
    def texts():
        yield "one"
        raise CorpusError("broken line 7")

    for kind in KINDS:
        with pytest.raises(CorpusError, match="line 7"):
            train_tokenizer(texts(), kind, 300)


PIECES = st.lists(
    st.sampled_from(
        ["a", "b ", " c", "don't", "'s", " ", "  ", "\n", "\r\n", "\t", ".", "12", " 1", "é", "日", "-", "!"]
    ),
    max_size=60,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=PIECES, size=st.integers(1, 20))
def test_long_texts_are_cut_where_it_does_not_matter(text, size):
    pieces = list(split_long(text, size))
    assert "".join(pieces) == text
    for kind in KINDS:
        tokenizer = Tokenizer.from_json(_trained(kind))
        assert [token for piece in pieces for token in tokenizer.encode(piece)] == tokenizer.encode(text)


_CACHE = {}


def _trained(kind):
    if kind not in _CACHE:
        _CACHE[kind] = train_tokenizer(
            [*LINES, "don't\n  \n a\n\nb 12. - ! é日's"], kind, 290, min_frequency=1
        )
    return _CACHE[kind]


def test_cutting_does_happen():
    text = "some words on a line.\n" * 1000
    assert len(list(split_long(text, 100))) > 100


def test_the_library_reads_the_file():
    fast = load_fast(train_tokenizer(LINES, "bpe", 300))
    assert fast.decode(fast.encode("Line 1 of a text").ids) == "Line 1 of a text"
