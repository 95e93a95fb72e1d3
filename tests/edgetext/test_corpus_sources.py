"""Every format that `--corpus` takes, and what is said when a source is broken."""

import csv
import gzip
import io
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from edgetext.corpus import CorpusConfig, iter_documents
from edgetext.errors import ConfigError, CorpusError

TEXTS = ["The first document.", "The second,\nwith two lines.", "A third: «naïve» 日本 👩‍👧"]


def read(source, **options):
    return list(iter_documents(CorpusConfig(str(source), **options)))


def fails(source, **options):
    with pytest.raises(CorpusError) as caught:
        read(source, **options)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    def make(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return make


def jsonl(texts, key="text"):
    return "".join(json.dumps({"id": number, key: text}) + "\n" for number, text in enumerate(texts))


def table(texts, name="text"):
    out = io.StringIO()
    csv.writer(out).writerows([["id", name], *enumerate(texts)])
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "A.TXT"])
def test_plain_text(file, name):
    path = file(name, "one\r\n\n  two \n\nthree\nfour")
    assert read(path) == ["one", "two", "three", "four"]
    assert read(path, unit="paragraph") == ["one", "two", "three\nfour"]
    assert read(path, unit="document") == ["one\n\n  two \n\nthree\nfour"]


def test_line_ends_of_all_systems_and_a_byte_order_mark(file):
    path = file("a.txt", b"\xef\xbb\xbfone\rtwo\r\nthree\n")
    assert read(path) == ["one", "two", "three"]
    assert read(path, unit="document") == ["one\ntwo\nthree"]


def test_nothing_else_about_the_text_is_changed(file):
    text = "e\u0301  \ufb01 \xa0\u2028x \x07"
    assert read(file("a.txt", text)) == [text]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines(file, name):
    path = file(name, jsonl(TEXTS) + '\n{"id": 3, "text": null}\n')
    assert read(path) == TEXTS
    assert read(path, unit="line")[1:3] == ["The second,", "with two lines."]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv(file, name):
    assert read(file(name, table(TEXTS)), unit="document") == TEXTS


def test_csv_fields_longer_than_the_library_allows(file):
    long = "word " * 50_000
    assert read(file("a.csv", table([long]))) == [long.strip()]


def test_parquet(tmp_path):
    rows = pyarrow.table({"id": [0, 1, 2, 3], "body": [*TEXTS, None]})
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == TEXTS
    assert read(tmp_path / "a.parquet", column="body") == TEXTS
    assert "--column: body" in fails(tmp_path / "a.parquet", column="text")
    assert "does not hold text" in fails(tmp_path / "a.parquet", column="id")


def test_dataset_directory(tmp_path):
    train = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2]})
    train.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == TEXTS
    test = datasets.Dataset.from_dict({"text": ["only for the test"], "label": [0]})
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "two")
    assert read(tmp_path / "two") == TEXTS
    assert read(tmp_path / "two" / "test") == ["only for the test"]
    assert "--column: text" in fails(tmp_path / "one", column="label")


def test_damaged_dataset_directory(tmp_path):
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text("{")
    assert "cannot be read as a saved dataset" in fails(tmp_path / "one")


def test_folder_of_files(file, tmp_path):
    file("data/b.jsonl", jsonl(TEXTS[1:]))
    file("data/a.txt", TEXTS[0])
    file("data/README.md", "not this")
    file("data/.cache/c.txt", "nor this")
    assert read(tmp_path / "data") == TEXTS
    file("data/train/d.txt", "trained on")
    assert read(tmp_path / "data") == ["trained on"]


def test_folder_without_data(file, tmp_path):
    file("data/README.md", "nothing")
    assert "no dataset" in fails(tmp_path / "data")


def test_missing_file_says_what_is_there(file, tmp_path):
    file("captions.txt", "x")
    assert "captions.txt" in fails(tmp_path / "caption.txt")
    assert "folder" in fails(tmp_path / "no" / "such.txt")
    assert "builtin:python-docs" in fails("builtin:shakespeare")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", ["a.txt is empty"]),
        ("a.text", b"words", [".jsonl", "--corpus -"]),
        ("a.txt", b"fine\nnot \0 fine\n", ["line 2", "NUL", "offset 9"]),
        ("a.txt", "fine\ncafé\n".encode("latin1"), ["line 2", "0xe9 at offset 8", "iconv -f latin1 -t utf8"]),
        ("a.txt", "text".encode("utf-16"), ["UTF-16", "iconv -f utf-16"]),
        ("a.txt", gzip.compress(b"text"), ["gzip", ".gz"]),
        ("a.txt", b"%PDF-1.7", ["pdftotext"]),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', ["line 2", "not valid JSON"]),
        ("a.jsonl", '[\n{"text": "a"}]', ["line 1", "not valid JSON", "jq"]),
        ("a.jsonl", '["a"]\n', ["line 1", "list", "object"]),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', ["line 2", "no column 'text'", "txt"]),
        ("a.jsonl", '{"text": "a"}\n{"text": 7}\n', ["line 2", "int", "--column"]),
        ("a.jsonl", '{"a": "x", "b": "y"}\n', ["line 1", "--column: a, b"]),
        ("a.jsonl", '{"a": 1}\n', ["no column holds text", "a"]),
        ("a.jsonl", '{"text": "\\ud800"}\n', ["line 1", "lone surrogate"]),
        ("a.csv", "mr,ref\na,b\n", ["--column: mr, ref"]),
        ("a.csv", "id,text\n1,one\n2,two,three\n", ["line 3", "3 fields", "2"]),
        ("a.csv", 'id,text\n1,"one\n2,two\n', ["line 2", "quote"]),
        ("a.parquet", b"no parquet at all", ["Parquet"]),
    ],
)
def test_broken_files(file, name, content, said):
    message = fails(file(name, content))
    assert name in message
    for part in said:
        assert part in message


def test_broken_gzip(file, tmp_path):
    whole = file("a.txt.gz", "some words\n" * 10_000)
    (tmp_path / "cut.txt.gz").write_bytes(whole.read_bytes()[:-20])
    assert "cut off" in fails(tmp_path / "cut.txt.gz")
    (tmp_path / "plain.txt.gz").write_bytes(b"words")
    assert "not a gzip file" in fails(tmp_path / "plain.txt.gz")


@pytest.mark.parametrize(
    ("name", "content", "unit"),
    [
        ("a.txt", "x" * 3000, "line"),
        ("a.txt", "word\n" * 600, "paragraph"),
        ("a.txt", "word\n\n" * 600, "document"),
        ("a.jsonl", jsonl(["x" * 3000]), None),
        ("a.csv", table(["x" * 3000]), None),
        ("a.csv", table(["x\n" * 1500]), None),
    ],
)
def test_a_document_longer_than_allowed_names_the_flag(file, name, content, unit):
    path = file(name, content)
    message = fails(path, unit=unit, max_document_mb=2000 / 2**20)
    assert "--max-document-mb" in message
    assert "line" in message
    assert read(path, unit=unit)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"unit": "word"}, "--unit"),
        ({"valid_fraction": 0.0}, "--valid-fraction"),
        ({"test_fraction": 0.5}, "--test-fraction"),
        ({"split_seed": -1}, "--split-seed"),
        ({"max_document_mb": 0}, "--max-document-mb"),
    ],
)
def test_impossible_options_name_the_flag(options, flag):
    with pytest.raises(ConfigError, match=flag):
        CorpusConfig(**options)
