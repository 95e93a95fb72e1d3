"""The runtime's tokenizer against the ``tokenizers`` library, on arbitrary Unicode."""

import json
import re
import unicodedata
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgetext.tokenization import load_fast, tokenizer_document, train_tokenizer
from edgetext_runtime.errors import TokenizerError
from edgetext_runtime.tokenizer import Tokenizer
from edgetext_runtime.tokenizer_format import byte_alphabet
from edgetext_runtime.unicode_classes import UNICODE_VERSION, character_classes

PATTERNS = ("gpt2", "llama3")
KINDS = ("bpe", "word", "char")
TEXTS = [
    "A red car stands before the house.\n    It isn't new: the 1,000 kilometres don't lie!\r\n",
    "The cars (three of them) aren't red; the house's door is known, says \"she\". 10% of 2.5\n\n\t\tEnd",
    "naïve café – Ünïcödé, 日本語のテキスト、한국어 텍스트, 👩‍👩‍👧‍👦 and 🇩🇪 e\u0301 \u200b \x00\x07\x1b\x7f",
    "the red car the red house the red door " * 5,
]
# What real text is made of, and what breaks tokenizers, in proportions that make them meet.
FRAGMENTS = st.sampled_from(
    [
        *[
            "the",
            " red",
            " car",
            "house",
            "'s",
            "'S",
            "'re",
            "n't",
            "don't",
            " ",
            "  ",
            "   ",
            "\t",
            "\n",
            "\r\n",
        ],
        *["\r", ".", ",", "(", ")", "-", "--", "_", "<eos>", "<unk>", "<pad>", "##", "1", "12345", "1,000.5"],
        *[
            "\x00",
            "\x0b",
            "\x85",
            "\u2028",
            "\xa0",
            "é",
            "e\u0301",
            "日本",
            "👩‍👧",
            "🇩🇪",
            "\U0010ffff",
            "\ufffd",
        ],
        *["\ufeff", "ſ", "İ", "'ſ", "'Ll", "'d", "\x1c", "\u2003", "\u3000", "½", "Ⅷ", "٣", "!\n", "\r\n\n"],
    ]
)
CHARACTERS = st.characters(exclude_categories=["Cs"])
UNICODE = st.one_of(
    st.text(CHARACTERS, max_size=60),
    st.lists(FRAGMENTS, max_size=25).map("".join),
    st.lists(st.one_of(FRAGMENTS, CHARACTERS), max_size=25).map("".join),
)


@cache
def trained(kind):
    data = train_tokenizer(TEXTS, kind, vocab_size=400, min_frequency=1)
    return Tokenizer.from_json(data), load_fast(data)


@cache
def document(kind):
    return json.loads(train_tokenizer(TEXTS, kind, vocab_size=400))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(text=UNICODE)
@example(text="a" * 5000 + " " * 5000 + "\n" * 3000)
@example(text="the red" * 2000)
@example(text="\n".join(TEXTS))
def test_encodes_to_the_same_ids(kind, text):
    ours, theirs = trained(kind)
    assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_decodes_any_ids_to_the_same_text(kind, data):
    ours, theirs = trained(kind)
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=40))
    special = {ours.eos_id, ours.pad_id, ours.unk_id}
    assert ours.decode(ids) == theirs.decode([token for token in ids if token not in special])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_stream_gives_the_text_in_whole_characters(kind, data):
    tokenizer, _ = trained(kind)
    ids = data.draw(
        st.one_of(
            UNICODE.map(tokenizer.encode),
            st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40),
        )
    )
    stream = tokenizer.stream()
    for _ in range(2):  # flush starts anew
        pieces = [stream.push(token) for token in ids] + [stream.flush()]
        assert "".join(pieces) == tokenizer.decode(ids)
        for end in range(len(pieces) - 1):  # at every moment what is out is final
            assert tokenizer.decode(ids).startswith("".join(pieces[:end]))


@settings(max_examples=300, deadline=None)
@given(text=UNICODE)
def test_bpe_loses_nothing(text):
    tokenizer, _ = trained("bpe")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


def test_stream_holds_back_half_a_character():
    tokenizer, _ = trained("bpe")
    ids = [token for byte in "😀".encode() for token in [2 + sorted(_alphabet()).index(_alphabet_of(byte))]]
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == ["", "", "", "😀"]
    assert [stream.push(token) for token in ids[:2]] == ["", ""]
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def _alphabet():
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def _alphabet_of(byte):
    return next(character for character, value in byte_alphabet().items() if value == byte)


def test_byte_alphabet_is_that_of_the_library():
    assert set(byte_alphabet()) == set(_alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["<eos>", "a<eos>b", "<pad><eos><pad>", "<eos", " <eos> "])
def test_no_text_is_a_special_token(kind, text):
    tokenizer, _ = trained(kind)
    assert not {tokenizer.eos_id, tokenizer.pad_id} & set(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_decode_to_nothing(kind):
    tokenizer, _ = trained(kind)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (0, 1)
    assert tokenizer.unk_id == (None if kind == "bpe" else 2)
    ids = tokenizer.encode("the red car")
    assert tokenizer.decode([0, 1, *ids[:1], 0, 1, *ids[1:], 0]) == "the red car"


@pytest.mark.parametrize(
    ("text", "read_back"),
    [
        ("a red car .", "a red car."),
        ("The cars (three of them) aren't red", "The cars (three of them) aren't red"),
        ("red;  the\thouse 's door", "red; the house's door"),
        ("house . \n\n End", "house.\n\nEnd"),
        ("well-known 1,000 25.5 10%", "well-known 1,000 25.5 10%"),
    ],
)
def test_words_are_joined_as_one_would_write_them(text, read_back):
    words = Tokenizer.from_json(train_tokenizer([text], "word", 100, min_frequency=1))
    assert words.decode(words.encode(text)) == read_back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["\ud800", "fine \udfff not", "\ude00\ud83d"])
def test_lone_surrogates_are_refused(kind, text):
    with pytest.raises(TokenizerError, match="lone surrogate"):
        trained(kind)[0].encode(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", [-1, 400, 10**12])
def test_ids_outside_the_vocabulary_are_refused(kind, token):
    tokenizer, _ = trained(kind)
    with pytest.raises(TokenizerError, match="not in the vocabulary"):
        tokenizer.decode([token])
    with pytest.raises(TokenizerError, match="not in the vocabulary"):
        tokenizer.stream().push(token)


def test_the_cache_of_words_stays_bounded(monkeypatch):
    monkeypatch.setattr("edgetext_runtime.tokenizer._CACHED_WORDS", 50)
    tokenizer = Tokenizer.from_json(json.dumps(document("bpe")))
    text = " ".join(f"word{number}x{number}" for number in range(500))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer._words) <= 50


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"model": 3}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_tokenizer_is_refused(data):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.from_json(data)


def _changed(kind, *path, value):
    changed = json.loads(json.dumps(document(kind)))
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(changed)


@pytest.mark.parametrize(
    "changed",
    [
        _changed("bpe", "added_tokens", value=[{"id": 0, "content": "<eos>"}]),
        _changed("bpe", "normalizer", value={"type": "NFC"}),
        _changed("bpe", "pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", value=r"\w+"),
        _changed("bpe", "model", "byte_fallback", value=True),
        _changed("bpe", "model", "merges", value=[["t", "h", "e"]]),
        _changed("bpe", "model", "merges", value=[["zz", "zz"]]),
        _changed("bpe", "model", "merges", value=7),
        _changed("bpe", "model", "vocab", value={"<eos>": 0, "<pad>": 1, "a": 2}),
        _changed("bpe", "model", "vocab", "a", value=5000),
        _changed("bpe", "model", "vocab", "a", value="5"),
        _changed("bpe", "model", "vocab", value=["<eos>", "<pad>"]),
        _changed("bpe", "model", "type", value="Unigram"),
        _changed("word", "decoder", value=None),
        _changed("word", "model", "unk_token", value="the"),
        _changed("word", "model", "vocab", value={"<pad>": 0, "<eos>": 1, "<unk>": 2}),
        _changed("word", "model", "vocab", value={"<eos>": 0, "<pad>": 1, "<unk>": 2, "two words": 3}),
        _changed("char", "model", "vocab", value={"<eos>": 0, "<pad>": 1, "<unk>": 2, "ab": 3}),
    ],
)
def test_other_tokenizers_are_refused_not_approximated(changed):
    with pytest.raises(TokenizerError):
        Tokenizer.from_json(changed)


def test_merges_are_read_in_both_notations():
    data = document("bpe")
    old = json.loads(json.dumps(data))
    old["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    text = "".join(TEXTS)
    assert Tokenizer.from_json(json.dumps(old)).encode(text) == Tokenizer.from_json(json.dumps(data)).encode(
        text
    )


# Byte-level BPE that splits as other models do.


@cache
def trained_as(pattern, ignore_merges=False):
    """A tokenizer with another model's pattern; ignoring merges, also with a word no merge leads to."""
    import tokenizers

    empty = tokenizer_document("bpe", {"type": "BPE", "vocab": {}, "merges": []}, pattern)
    library = tokenizers.Tokenizer.from_str(json.dumps(empty))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        min_frequency=1,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(TEXTS, trainer)
    model = json.loads(library.to_str())["model"]
    model = {"type": "BPE", "vocab": model["vocab"], "merges": model["merges"]}
    if ignore_merges:
        model["ignore_merges"] = True
        model["vocab"]["Ġunmerged"] = len(model["vocab"])
    data = json.dumps(tokenizer_document("bpe", model, pattern)).encode()
    return Tokenizer.from_json(data), load_fast(data), data


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=400, deadline=None)
@given(text=UNICODE)
@example(text="\n".join(TEXTS))
@example(text="a" * 5000 + " " * 5000 + "\n" * 3000 + "!" * 3000 + "é" * 3000)
def test_splits_as_other_models_do(pattern, text):
    ours, theirs, _ = trained_as(pattern)
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == text


def _code_points():
    return "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)


@pytest.mark.parametrize(("place", "theirs"), enumerate([r"\p{L}", r"\p{N}", r"\s"]))
def test_every_code_point_is_classified_as_by_the_library(place, theirs):
    from tokenizers import Regex, pre_tokenizers

    text = _code_points()
    matches = pre_tokenizers.Split(Regex(theirs), "removed", invert=True).pre_tokenize_str(text)
    ours = re.findall(f"[{character_classes()[place]}]", text)
    assert ours == [character for character, _ in matches]
    short = re.findall(f"[{character_classes(ascii_only=True)[place]}]", text)
    assert short == [character for character in ours if character.isascii()]


@pytest.mark.parametrize(("place", "category"), enumerate("LN"))
def test_the_classes_are_those_of_the_stated_unicode_version(place, category):
    """Pythons of other versions know more or fewer code points, but put the ones they share alike."""
    ours = set(re.findall(f"[{character_classes()[place]}]", _code_points()))
    theirs = {c for c in _code_points() if unicodedata.category(c).startswith(category)}
    if unicodedata.unidata_version.startswith(UNICODE_VERSION):
        assert ours == theirs
    elif unicodedata.unidata_version < UNICODE_VERSION:
        assert theirs < ours
        assert {unicodedata.category(c) for c in ours - theirs} == {"Cn"}
    else:
        assert ours < theirs


@pytest.mark.parametrize("pattern", PATTERNS)
def test_code_points_split_alike_in_every_neighbourhood(pattern):
    """Both ends of every run of one class, between letters, digits, marks and blanks."""
    ours, theirs, _ = trained_as(pattern)
    classes = character_classes()
    runs = re.findall(
        "|".join(f"[{members}]+" for members in classes) + f"|[^{''.join(classes)}]+", _code_points()
    )
    ends = sorted({end for run in runs for end in (run[0], run[-1])})
    for shape in ("a{}a", "1{}1", " {} ", "!{}!", "'{}", "\n{}\n", "  {}x", "{}'s", "\t{}\r"):
        text = "\x00".join(shape.format(character) for character in ends)
        assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_word_of_the_vocabulary_is_one_token_where_merges_are_ignored(pattern):
    ours, theirs, _ = trained_as(pattern, ignore_merges=True)
    for text in (" unmerged", "unmerged", " unmerged house", *TEXTS):
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.encode(" unmerged") == [ours.vocab_size - 1]


def test_patterns_and_their_options_are_not_mixed():
    data = document("bpe")
    with pytest.raises(TokenizerError, match="ignore_merges"):
        Tokenizer.from_json(json.dumps({**data, "model": {**data["model"], "ignore_merges": True}}))
    other = json.loads(trained_as("llama3")[2])
    other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    with pytest.raises(TokenizerError, match="splitting patterns"):
        Tokenizer.from_json(json.dumps(other))
    other = json.loads(trained_as("gpt2")[2])
    for change in ({"add_prefix_space": True}, {"use_regex": False}):
        with pytest.raises(TokenizerError, match="splitting patterns"):
            Tokenizer.from_json(json.dumps({**other, "pre_tokenizer": {**other["pre_tokenizer"], **change}}))
