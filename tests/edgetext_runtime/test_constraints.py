"""Constrained texts: patterns mean what ``re`` means, schemas what ``json`` reads; no text escapes them."""

import json
import re

import pytest
import tiny_bundle as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetext.tokenization import tokenizer_document
from edgetext_export.writer import write_bundle
from edgetext_runtime import Generator, InputError
from edgetext_runtime.automaton import compile_tree, utf8_paths
from edgetext_runtime.json_schema import parse_schema
from edgetext_runtime.patterns import parse_pattern

PATTERNS = [
    "a+b",
    "[^a]*é?",
    "(foo|bar){2,3}x?",
    r"\d{4}-\d\d",
    ".*",
    "(?:a|b)*abb",
    "[\u0100-\u20ff]+",
    r"\W\S\w\D",
    "^a{,2}$",
    r"[]\-^]+|[^\n]",
    r"\x41\u00e9[\d_]",
    "|a||b",
    "((a?){3}b*)*",
    r"\.\[\{\}",
    "[a-]",
]


def matches(automaton, text):
    return bool(automaton.accepts[automaton.walk(1, text.encode())])


@given(pattern=st.sampled_from(PATTERNS), text=st.text("abforx0142-é\u0100A_—\n.[{}]^😀", max_size=9))
@settings(max_examples=600)
def test_patterns_match_what_re_matches(pattern, text):
    automaton = compile_tree(parse_pattern(pattern), "regex")
    assert matches(automaton, text) == bool(re.fullmatch(pattern, text, re.ASCII))


@given(bounds=st.tuples(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF)), point=st.integers(0, 0x10FFFF))
def test_ranges_of_characters_are_ranges_of_bytes(bounds, point):
    low, high = sorted(bounds)
    character = chr(point).encode(errors="ignore")
    paths = list(utf8_paths(low, high))
    fitting = [zip(character, path, strict=True) for path in paths if len(path) == len(character)]
    inside = any(all(a <= byte <= b for byte, (a, b) in path) for path in fitting)
    assert inside == (low <= point <= high and character != b"")


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(a", "not closed"),
        ("a)", "unmatched"),
        ("[a", "not closed"),
        ("*a", "means nothing"),
        ("a**", "second quantifier"),
        ("a*?", "second quantifier"),
        ("a{3,1}", "the count"),
        ("a{9999}", "the count"),
        ("a{x}", "begins no count"),
        ("(?=a)", r"starts with '\(\?='"),
        ("(?P<n>a)", "starts with"),
        (r"\b", "the escape"),
        (r"\1", "the escape"),
        (r"\xZZ", "the escape"),
        ("a^b", "means nothing"),
        ("a$b", "means nothing"),
        ("[b-a]", "range"),
        (r"[\d-x]", "range"),
        (r"[^\D\d]", "no character"),
        ("\ud800", "surrogate"),
        ("(" * 60 + ")" * 60, "more than 50 groups"),
        ("\\", "the escape"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(lstm, pattern, what):
    with pytest.raises(InputError, match=f"at character .*{what}"):
        lstm.stream("a", regex=pattern)


def test_patterns_that_would_fill_the_memory_are_refused(lstm):
    for pattern in ("((a{1000}){1000}){1000}", "(a|b)*a(a|b){20}", "((a?b?c?){1000}){20}"):
        with pytest.raises(InputError, match="fewer or smaller repetitions"):
            lstm.stream("a", regex=pattern)


SCHEMA = {
    "type": "object",
    "title": "a person",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["x", "é", 1, None]}, "minItems": 1, "maxItems": 3},
        "size": {"type": ["number", "null"]},
        "inner": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
        "version": {"const": 2},
    },
    "required": ["name", "tags", "version"],
}


def check_person(document):
    assert list(document) == [name for name in SCHEMA["properties"] if name in document]
    assert {"name", "tags", "version"} <= set(document)
    assert 1 <= len(document["name"]) <= 6
    assert 1 <= len(document["tags"]) <= 3
    assert all(tag in ("x", "é", 1, None) for tag in document["tags"])
    assert isinstance(document.get("age", 0), int)
    assert isinstance(document.get("size"), int | float | None)
    assert document.get("inner", {"ok": True})["ok"] in (True, False)
    assert document["version"] == 2


def test_documents_of_a_schema_are_read_by_json(byte_model):
    for seed in range(15):
        result = byte_model.generate("a", seed=seed, json_schema=SCHEMA, max_new_tokens=400)
        assert result.finish_reason == "eos"
        check_person(json.loads(result.text))


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"type": "integer"}, ["0", "-7", "123"], ["01", "1.5", "+1", "", "1" * 16]),
        ({"type": "number"}, ["0", "-1.5e-7", "2E3"], ["1.", ".5", "1e999", "NaN"]),
        ({"type": "string"}, ['""', '"a\\n\\u00e9é"'], ['"', '"\n"', '"\\x"', '"\\ud800"']),
        ({"type": "boolean"}, ["true", "false"], ["True", "0"]),
        ({"anyOf": [{"type": "null"}, {"const": "a b"}]}, ["null", '"a b"'], ['"a"']),
        ({"type": "array", "items": {"type": "null"}}, ["[]", "[null]", "[null, null]"], ["[null,]", "[ ]"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, ["[null,null]"], ["[]", "[null]"]),
        (
            {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
            ["{}", '{"a":1}', '{"b": 2, "c":3}', '{"a":1,"b":2,"c":3}'],
            ['{"b":2,"a":1}', '{"a":1,}', '{,"a":1}', '{"a":1 }'],
        ),
    ],
)
def test_schemas_accept_and_refuse(schema, yes, no):
    automaton = compile_tree(parse_schema(schema), "json_schema")
    assert [text for text in yes if not matches(automaton, text)] == []
    assert [text for text in no if matches(automaton, text)] == []


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "string", "pattern": "a"}, "the keyword 'pattern'"),
        ({"type": "integer", "minimum": 3}, "the keyword 'minimum'"),
        ({"$ref": "#/x"}, r"\['\$ref'\]"),
        ({"type": "object"}, "without properties"),
        ({"type": "object", "properties": {"a": {"type": "thing"}}}, r"properties\.a has the type 'thing'"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "has required"),
        ({"type": "array"}, "without items"),
        ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 1}, "maxItems 1 below"),
        ({"type": "string", "maxLength": -1}, "maxLength -1"),
        ({"enum": []}, "enum"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": {1, 2}}, "is not JSON"),
        ({}, "has no type"),
        ({"type": []}, "empty list"),
        ({"items": 3}, "has no type"),
    ],
)
def test_schemas_that_are_not_understood_name_the_keyword(lstm, schema, what):
    with pytest.raises(InputError, match=f"json_schema.*{what}"):
        lstm.stream("a", json_schema=schema)


def test_deep_schemas_are_refused(lstm):
    schema = {"type": "null"}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InputError, match="nested more than"):
        lstm.stream("a", json_schema=schema)


CHOICES = ["yes", "no", "yes and no", "é—😀"]


@pytest.mark.parametrize("model", ["lstm", "byte_model", "attention"])
def test_every_text_is_one_of_the_choices(request, model):
    generator = request.getfixturevalue(model)
    hot = {"choices": CHOICES, "temperature": 30.0}
    results = [generator.generate("ab", seed=seed, **hot) for seed in range(30)]
    assert {result.finish_reason for result in results} == {"eos"}
    assert {result.text for result in results} <= set(CHOICES)
    assert len({result.text for result in results}) > 1


def test_text_cut_by_its_length_is_the_beginning_of_a_match(byte_model):
    for seed in range(10):
        result = byte_model.generate("a", seed=seed, regex="(ab|cd){9}", max_new_tokens=7)
        assert result.finish_reason == "length"
        assert re.fullmatch("(ab|cd){3}[ac]", result.text)
    exact = byte_model.generate("a", seed=0, regex="(ab|cd){9}", max_new_tokens=18)
    assert (exact.finish_reason, len(exact.text)) == ("eos", 18)


def test_stream_and_state_satisfy_constraints_too(byte_model):
    state = byte_model.prefill("ab")
    pieces = list(byte_model.stream(state=state, regex="[aé]{4}", seed=1))
    assert re.fullmatch("[aé]{4}", "".join(pieces))


def test_choices_that_the_vocabulary_cannot_spell(lstm):
    with pytest.raises(InputError, match="choices cannot be written"):
        lstm.stream("a", choices=["ÄÖ", "Ü"])
    assert lstm.generate("a", seed=0, choices=["ÄÖ", "no"]).text == "no"
    # "!" is not in the vocabulary: whoever begins like this must take the other way.
    for seed in range(10):
        assert lstm.generate("a", seed=seed, regex="(a!|ab)").text == "ab"


def test_words_are_written_with_the_spaces_between_them(tmp_path):
    words = ["<eos>", "<pad>", "<unk>", "the", "cat", "dog", "(", ")", ",", "."]
    model = {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(words)}, "unk_token": "<unk>"}
    tokenizer = json.dumps(tokenizer_document("word", model)).encode()
    graph, state = tiny.lstm_model(len(words))
    path = write_bundle(
        tmp_path / "words.etx", tiny.manifest(len(words), state), tiny.members(graph, tokenizer)
    )
    generator = Generator.load(path)
    for seed in range(10):
        pattern = r"the (cat|dog|bird) \((the cat, ){1,3}the dog\)\."
        text = generator.generate("the", seed=seed, regex=pattern).text
        assert re.fullmatch(pattern, text)
        assert "bird" not in text
    text = generator.generate("the", seed=0, bad_words=["cat", "the dog"], max_new_tokens=30).text
    assert "cat" not in text
    assert "the dog" not in text


def test_constraints_are_compiled_once(lstm):
    settings_ = {"regex": "[ab]{3,5}"}
    lstm.generate("a", **settings_)
    cache = lstm._constraints
    before = dict(cache._compiled)
    lstm.generate("b", seed=3, **settings_)
    assert cache._compiled == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": []}, "choices is"),
        ({"choices": "ab"}, "choices is 'ab'"),
        ({"choices": [""]}, "choices is"),
        ({"regex": 3}, "regex is 3"),
        ({"json_schema": "{}"}, "json_schema is"),
        ({"choices": ["a"], "regex": "a"}, "choices and regex are given together"),
        ({"regex": "a", "stop": "b"}, "stop is"),
    ],
)
def test_invalid_constraints_are_refused_at_once(lstm, options, message):
    with pytest.raises(InputError, match=message):
        lstm.stream("a", **options)
