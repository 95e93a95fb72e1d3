"""Corpora with a label column: read from every format, numbered by document, refused."""

import numpy as np
import pytest
from moods import MOODS, ROWS, config, write

from edgetext.config import DistillConfig
from edgetext.corpus import iter_documents, load_record, prepare_corpus
from edgetext.corpus.labels import LabelledText
from edgetext.distill.recipes import RECIPES
from edgetext.errors import ConfigError, CorpusError
from edgetext.training.data import DocumentSampler, document_windows, open_labels, open_stream
from edgetext_runtime.tokenizer import Tokenizer


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_kind_of_table_gives_texts_with_their_label(tmp_path, ending):
    documents = list(iter_documents(config(write(tmp_path / f"moods.{ending}"))))
    assert all(isinstance(text, LabelledText) for text in documents)
    assert [(str(text), text.label) for text in documents] == ROWS


def test_the_text_is_found_beside_the_label(tmp_path):
    path = tmp_path / "moods.csv"
    path.write_text("mood,words\ngood,the cat sings\nbad,the dog weeps\n")
    assert list(iter_documents(config(path))) == ["the cat sings", "the dog weeps"]


def test_numbers_and_truth_values_are_labels(tmp_path):
    path = tmp_path / "stars.jsonl"
    path.write_text('{"stars": 5, "text": "fine"}\n{"stars": true, "text": "yes"}\n')
    assert [text.label for text in iter_documents(config(path, label_column="stars"))] == ["5", "True"]


@pytest.fixture
def prepared(tmp_path):
    """A corpus made ready, with its streams."""
    prepare_corpus(config(write(tmp_path / "moods.csv")), "word", 100, tmp_path / "run")
    return tmp_path / "run"


def test_every_document_of_every_split_keeps_its_label(prepared):
    record = load_record(prepared)
    assert record.labels == {"bad": 32, "good": 32}
    tokenizer = Tokenizer.from_json((prepared / "tokenizer.json").read_bytes())
    for split in ("train", "valid", "test"):
        stream = open_stream(prepared / "data" / f"{split}.npy")
        labels = open_labels(prepared / "data" / f"{split}.labels.npy", stream, 2)
        for window in document_windows(stream, 64, 4, None, labels):
            for row, real, condition in zip(window.tokens, window.mask.sum(1), window.condition, strict=True):
                verb = tokenizer.decode(row[1:real].tolist()).split()[2]
                assert sorted(record.labels)[int(condition.argmax())] == MOODS[verb]
                assert condition.sum() == 1


def test_a_long_document_has_its_label_in_all_its_rows(prepared):
    stream = open_stream(prepared / "data" / "train.npy")
    labels = open_labels(prepared / "data" / "train.labels.npy", stream, 2)
    short, whole = (DocumentSampler(stream, length, 4, 1, labels) for length in (3, 64))
    assert len(short.rows) > len(whole.rows)
    own = {int(start): int(number) for start, number in zip(whole.rows[:, 0], labels.ids, strict=True)}
    for start, condition in zip(short.rows[:, 0], labels.rows(short.rows[:, 0]), strict=True):
        document = max(first for first in own if first <= start)
        assert int(condition.argmax()) == own[document]
    batch = short.batch(0)
    assert batch.condition.shape == (4, 2)


def test_labels_that_do_not_fit_their_stream_are_refused(prepared):
    stream = open_stream(prepared / "data" / "test.npy")
    path = prepared / "data" / "test.labels.npy"
    np.save(path, np.load(path)[1:])
    with pytest.raises(CorpusError, match="other labels"):
        open_labels(path, stream, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mood,text\n,the cat sings\n", "line 2.*column 'mood' holds ''.*every row needs one"),
        ("text\nthe cat sings\n", "no column 'mood'"),
        ("mood,text\ngood,the cat sings\nbad,the dog limps\n", "too small to split"),
    ],
)
def test_a_column_that_is_no_label_is_refused(tmp_path, text, message):
    path = tmp_path / "moods.csv"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message):
        prepare_corpus(config(path), "word", 100, tmp_path / "run")


def test_one_label_or_too_many_are_refused(tmp_path):
    alike = write(tmp_path / "alike.csv", [(text, "good") for text, _ in ROWS])
    with pytest.raises(CorpusError, match="holds 1 different labels; a label column has 2 to 256"):
        prepare_corpus(config(alike), "word", 100, tmp_path / "run")
    texts = write(
        tmp_path / "texts.csv", [(f"{text} {n}", f"label {n}") for n, (text, _) in enumerate(ROWS * 5)]
    )
    with pytest.raises(CorpusError, match="holds 320 different labels"):
        prepare_corpus(config(texts), "word", 100, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": "stream", "refine_steps": 0}, "add --windows document"),
        ({"windows": "document"}, "add --refine-steps 0"),
        (
            {"windows": "document", "refine_steps": 0, "cache": "here", "teachers": ()},
            "a cache holds no labels",
        ),
        ({"windows": "document", "refine_steps": 0, "recipe": RECIPES["augmented"]}, "another --recipe"),
    ],
)
def test_what_labels_do_not_go_with_is_refused_with_the_flag(options, message):
    with pytest.raises(ConfigError, match=message):
        DistillConfig(corpus=config("moods.csv"), **options)


def test_labels_are_of_whole_rows_and_not_the_text(tmp_path):
    with pytest.raises(ConfigError, match="leave out --unit line"):
        config("moods.csv", unit="line")
    with pytest.raises(ConfigError, match="the same column"):
        config("moods.csv", column="mood")
