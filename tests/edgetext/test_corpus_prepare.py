"""Splitting, encoding and writing: the same bytes every time, nothing half done."""

import io
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetext.corpus import SPLITS, CorpusConfig, iter_documents, load_record, prepare_corpus, split_documents
from edgetext.corpus.streams import TokenWriter
from edgetext.errors import ConfigError, CorpusError
from edgetext_runtime.errors import TokenizerError
from edgetext_runtime.tokenizer import Tokenizer

WORDS = [
    "red",
    "green",
    "old",
    "new",
    "car",
    "house",
    "street",
    "dog",
    "stands",
    "sleeps",
    "near",
    "under",
    "the",
    "a",
]


def sentences(count, seed=0):
    choose = random.Random(seed)
    return [f"{number}: the " + " ".join(choose.choices(WORDS, k=8)) + "." for number in range(count)]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(sentences(300)) + "\n")
    return path


def stream(folder, split):
    return np.load(folder / "data" / f"{split}.npy", mmap_mode="r", allow_pickle=False)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_streams_hold_every_document_between_boundaries(corpus, tmp_path, kind):
    config = CorpusConfig(str(corpus))
    record = prepare_corpus(config, kind, 300, tmp_path / "run")
    tokenizer = Tokenizer.from_json((tmp_path / "run" / "tokenizer.json").read_bytes())
    parts = {
        name: [text for split, text in split_documents(iter_documents(config), config) if split == name]
        for name in SPLITS
    }
    for name, texts in parts.items():
        expected = [0, *(token for text in texts for token in [*tokenizer.encode(text), 0])]
        tokens = stream(tmp_path / "run", name)
        assert tokens.dtype == np.uint16
        assert tokens.tolist() == expected
        split = record.splits[name]
        assert (split.documents, split.tokens) == (len(texts), len(expected))
        assert split.characters == sum(map(len, texts))
    assert record.documents == 300
    assert record.unit == "line"
    assert load_record(tmp_path / "run") == record


def test_the_tokenizer_sees_the_train_split_only(tmp_path):
    lines = sentences(400)
    config = CorpusConfig(str(tmp_path / "c.txt"))
    sides = dict(zip(lines, (side for side, _ in split_documents(lines, config)), strict=True))
    marked = [line for line in lines if sides[line] == "train"] + [f"{'§' * 40} {n}" for n in range(400)]
    (tmp_path / "c.txt").write_text("\n".join(marked))
    prepare_corpus(config, "char", 300, tmp_path / "run")
    vocabulary = json.loads((tmp_path / "run" / "tokenizer.json").read_bytes())["model"]["vocab"]
    assert "§" in vocabulary
    only_tested = next(text for text in lines if sides[text] == "test").replace(".", "¶")
    for number in range(10_000):
        if next(side for side, _ in split_documents([f"{only_tested}{number}", "x"], config)) == "test":
            break
    (tmp_path / "c.txt").write_text("\n".join([*lines, f"{only_tested}{number}"]))
    prepare_corpus(config, "char", 300, tmp_path / "run")
    vocabulary = json.loads((tmp_path / "run" / "tokenizer.json").read_bytes())["model"]["vocab"]
    assert "¶" not in vocabulary


def test_the_same_corpus_gives_the_same_bytes(corpus, tmp_path):
    for folder in ("one", "two"):
        prepare_corpus(CorpusConfig(str(corpus)), "bpe", 300, tmp_path / folder)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    prepare_corpus(CorpusConfig(str(corpus)), "bpe", 300, tmp_path / "one")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert {str(path) for path in files(tmp_path / "one")} == {
        "corpus.json",
        "tokenizer.json",
        "data/train.npy",
        "data/valid.npy",
        "data/test.npy",
    }


def test_a_teachers_tokenizer_can_be_used(corpus, tmp_path):
    prepare_corpus(CorpusConfig(str(corpus)), "bpe", 300, tmp_path / "teacher")
    tokenizer = (tmp_path / "teacher" / "tokenizer.json").read_bytes()
    record = prepare_corpus(CorpusConfig(str(corpus)), "word", 9, tmp_path / "student", tokenizer=tokenizer)
    assert (tmp_path / "student" / "tokenizer.json").read_bytes() == tokenizer
    assert record.tokenizer["kind"] == "bpe"
    with pytest.raises(TokenizerError):
        prepare_corpus(CorpusConfig(str(corpus)), "word", 9, tmp_path / "student", tokenizer=b"{}")


def test_standard_input_gives_what_the_file_gives(corpus, tmp_path, monkeypatch):
    expected = prepare_corpus(CorpusConfig(str(corpus)), "bpe", 300, tmp_path / "file")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(corpus.read_bytes())))
    record = prepare_corpus(CorpusConfig("-"), "bpe", 300, tmp_path / "stdin")
    assert (record.source, record.sha256, record.splits) == ("-", expected.sha256, expected.splits)
    assert files(tmp_path / "stdin").keys() == files(tmp_path / "file").keys()


def test_progress_reaches_the_end(corpus, tmp_path):
    calls = []
    prepare_corpus(
        CorpusConfig(str(corpus)), "char", 300, tmp_path / "run", progress=lambda *call: calls.append(call)
    )
    assert ("tokenizer", 300, 300) in calls
    assert calls[-1] == ("tokens", 300, 300)


def test_a_failure_leaves_the_last_good_state(corpus, tmp_path):
    prepare_corpus(CorpusConfig(str(corpus)), "bpe", 300, tmp_path / "run")
    before = files(tmp_path / "run")
    corpus.write_bytes(corpus.read_bytes() + b"\xff\n")
    with pytest.raises(CorpusError, match="line 301"):
        prepare_corpus(CorpusConfig(str(corpus)), "bpe", 300, tmp_path / "run")
    assert files(tmp_path / "run") == before


def test_what_a_killed_run_left_is_removed(corpus, tmp_path):
    (tmp_path / "run" / ".corpus-abc" / "data").mkdir(parents=True)
    assert load_record(tmp_path / "run") is None
    prepare_corpus(CorpusConfig(str(corpus)), "char", 300, tmp_path / "run")
    assert not list((tmp_path / "run").glob(".corpus-*"))


def test_a_corpus_that_changes_meanwhile_is_noticed(corpus, tmp_path):
    def change(phase, done, total):
        if phase == "tokenizer" and total is not None:
            corpus.write_text(corpus.read_text() + "one more line\n")

    with pytest.raises(CorpusError, match="changed while"):
        prepare_corpus(CorpusConfig(str(corpus)), "char", 300, tmp_path / "run", progress=change)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("  \n\n", {}, "no text"),
        ("one line", {}, "too small"),
        ("one line\nanother\n", {}, "too small to split.*train.*--unit"),
        ("\n".join(sentences(3)), {"unit": "document"}, "too small to split"),
        (
            "x\n" * 500,
            {"unit": "document", "valid_fraction": 0.001},
            "tokens found.*valid 3.*valid needs at least",
        ),
    ],
)
def test_too_small(tmp_path, text, options, said):
    (tmp_path / "small.txt").write_text(text)
    with pytest.raises(CorpusError, match=f"(?s)small.txt.*{said}"):
        prepare_corpus(CorpusConfig(str(tmp_path / "small.txt"), **options), "char", 300, tmp_path / "run")


def test_impossible_tokenizers_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="--vocab-size"):
        prepare_corpus(CorpusConfig(str(tmp_path / "absent.txt")), "bpe", 100, tmp_path / "run")


def test_the_builtin_corpus_carries_its_licence(tmp_path):
    record = prepare_corpus(CorpusConfig(), "bpe", 512, tmp_path / "run")
    assert (record.licence, record.unit) == ("PSF-2.0", "document")
    assert record.python is not None
    assert record.splits["train"].tokens > 20 * record.splits["test"].tokens / 2


def test_damaged_records_are_errors(tmp_path):
    for content in ("{", "[]", "{}", '{"splits": {}}'):
        (tmp_path / "corpus.json").write_text(content)
        with pytest.raises(CorpusError, match="prepare the corpus again"):
            load_record(tmp_path)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=20),
    st.randoms(),
)
def test_the_split_depends_on_the_text_alone(documents, order):
    config = CorpusConfig(valid_fraction=0.3, test_fraction=0.3)
    sides = {text: split for split, text in split_documents(documents, config)}
    assert [split for split, _ in split_documents(documents, config)] == [sides[text] for text in documents]
    shuffled = [*order.sample(documents, len(documents)), "one more"]
    assert all(sides.get(text, split) == split for split, text in split_documents(shuffled, config))


def test_the_split_has_the_shares_asked_for_and_another_seed_another_split():
    documents = sentences(5000)
    config = CorpusConfig(valid_fraction=0.1, test_fraction=0.2)
    sides = [split for split, _ in split_documents(documents, config)]
    assert abs(sides.count("valid") - 500) < 100
    assert abs(sides.count("test") - 1000) < 150
    other = CorpusConfig(valid_fraction=0.1, test_fraction=0.2, split_seed=1)
    assert sides != [split for split, _ in split_documents(documents, other)]


def test_one_document_is_cut_at_line_ends():
    lines = sentences(100)
    parts = dict(split_documents(["\n".join(lines)], CorpusConfig()))
    assert list(parts) == list(SPLITS)
    assert [line for part in parts.values() for line in part.split("\n")] == lines
    assert 85 <= len(parts["train"].split("\n")) <= 95


@pytest.mark.parametrize("elsewhere", [("valid",), ("test",), ("valid", "test")])
def test_of_one_document_nothing_goes_to_a_split_with_a_source_of_its_own(elsewhere):
    lines = sentences(100)
    config = CorpusConfig(**{f"{split}_source": "other.txt" for split in elsewhere})
    parts = dict(split_documents(["\n".join(lines)], config))
    assert list(parts) == [split for split in SPLITS if split not in elsewhere]
    assert [line for part in parts.values() for line in part.split("\n")] == lines


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_token_files_are_those_numpy_writes(tmp_path, vocab_size, dtype):
    with TokenWriter(tmp_path / "a.npy", vocab_size, eos_id=0) as writer:
        for start in range(0, 200_000, 1000):
            writer.write(range(start % 60_000, start % 60_000 + 1000))
            writer.end_document()
    tokens = np.load(tmp_path / "a.npy", mmap_mode="r", allow_pickle=False)
    assert tokens.dtype == dtype
    assert tokens.shape == (writer.tokens,) == (200 * 1001 + 1,)
    assert tokens[0] == tokens[1001] == tokens[-1] == 0
    assert tokens[1003:1005].tolist() == [1001, 1002]
