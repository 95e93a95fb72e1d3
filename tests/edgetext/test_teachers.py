"""Teachers of every make, through the command: ensembles, chains, caches, Hugging Face, fewer tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_models import SENTENCES, save_teacher
from support import TINY_STUDENT

from edgetext.distill.cache import TargetCache
from edgetext.distill.teachers import load_teacher
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.data import WindowSampler
from edgetext_runtime.tokenizer import Tokenizer

SMALL = "lstm,embedding=16,hidden=16,layers=1,tied=true"
LARGE = "lstm,embedding=24,hidden=32,layers=2,dropout=0.1"
SHORT = ["--refine-steps", "0", "--teacher-steps", "10", "--distill-steps", "10", "--no-frontier"]
TRANSFORMER = "transformer,hidden=16,layers=1,heads=2,kv_heads=1,ffn=24,context=128,tied=true"


def edgetext(*arguments: str | Path, fails: bool = False) -> str:
    """Run the command; returns what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "edgetext", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr


def rows(run: Path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((run / "result.json").read_text())["models"]}


@pytest.fixture(scope="module")
def ensemble(tiny_corpus, tmp_path_factory) -> Path:
    """A run with two teachers and an assistant."""
    run = tmp_path_factory.mktemp("teachers") / "ensemble"
    edgetext(
        *("distill", "--corpus", tiny_corpus, "--run", run, "--vocab-size", "300", *TINY_STUDENT, *SHORT),
        *("--teacher", LARGE, "--teacher", LARGE, "--assistant", "lstm,embedding=16,hidden=24,layers=1"),
    )
    return run


def test_several_teachers_are_an_ensemble(ensemble):
    found = rows(ensemble)
    assert list(found) == ["teacher-1", "teacher-2", "teacher", "assistant", "distilled"]
    assert found["teacher"]["parameters"] == 2 * found["teacher-1"]["parameters"]
    assert (
        found["teacher-1"]["test_perplexity"] != found["teacher-2"]["test_perplexity"]
    )  # seeds of their own
    assert found["teacher"]["kl_teacher"] == 0
    assert found["distilled"]["kl_teacher"] > 0
    loaded = load_teacher(ensemble)
    assert isinstance(loaded, EnsembleGenerator)
    assert loaded.parameters_count() == found["teacher"]["parameters"]


def test_every_link_of_a_chain_must_be_able_to_follow_the_recipe(ensemble, tiny_corpus, tmp_path):
    run = tmp_path / "chain"
    said = edgetext(
        *("distill", "--corpus", tiny_corpus, "--run", run, "--recipe", "pkd-last", "--refine-steps", "0"),
        *("--teacher", ensemble, "--assistant", LARGE, "--student", LARGE),
        fails=True,
    )
    assert "an ensemble has not" in said
    assert not run.exists()


def test_a_cache_replaces_the_teacher(ensemble, tiny_corpus, tmp_path):
    cache, run = tmp_path / "cache", tmp_path / "run"
    edgetext("cache-targets", ensemble, "--run", ensemble, "-o", cache, "--top-k", "16")
    arguments = ("distill", "--corpus", tiny_corpus, "--run", run, *TINY_STUDENT, *SHORT[:2], *SHORT[4:])
    edgetext(*arguments, "--cache", cache)
    found = rows(run)
    assert list(found) == ["distilled"]
    assert found["distilled"]["agreement"] is None
    assert (run / "tokenizer.json").read_bytes() == (ensemble / "tokenizer.json").read_bytes()
    assert "–" in (run / "report.md").read_text()
    said = edgetext(*arguments, "--cache", cache, "--force", "--valid-fraction", "0.2", fails=True)
    assert "cache-targets" in said
    assert f"training split of {ensemble}" in said
    assert not run.exists()  # nothing was begun
    said = edgetext(*arguments, "--cache", cache, "--force", "--recipe", "logit-mse", fails=True)
    assert "whole distribution" in said
    said = edgetext(*arguments, "--cache", cache, "--force", "--recipe", "augmented", fails=True)
    assert "--written-tokens" in said


def test_a_cache_may_hold_text_that_the_teacher_wrote(ensemble, tiny_corpus, tmp_path):
    cache, run = tmp_path / "cache", tmp_path / "run"
    edgetext("cache-targets", ensemble, "--run", ensemble, "-o", cache, "--written-tokens", "2000")
    opened = TargetCache.open(cache)
    assert opened.written is not None
    stream = opened.written_stream()
    assert 2000 <= len(stream) < 3000
    batch = WindowSampler(stream, 16, 8, seed=0).batch(0)
    live = load_teacher(ensemble).eval()(batch.tokens[:, :-1]).logits.softmax(-1)
    stored = opened.written.lookup(batch.starts, 16)
    agree = (stored.ids[..., 0] == live.argmax(-1)).float().mean()
    assert agree > 0.7  # the cache has seen more of what came before a window
    arguments = ("distill", "--corpus", tiny_corpus, "--run", run, *TINY_STUDENT, *SHORT[:2], *SHORT[4:])
    edgetext(*arguments, "--cache", cache, "--recipe", "augmented")
    losses = [json.loads(line) for line in (run / "distilled" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["soft"] > 0 for record in losses)
    (cache / "written.npy").write_bytes((ensemble / "data" / "train.npy").read_bytes())
    said = edgetext(*arguments, "--cache", cache, "--force", "--recipe", "augmented", fails=True)
    assert "not the text" in said


def test_a_student_may_have_fewer_tokens_than_its_teacher(ensemble, tiny_corpus, tmp_path):
    run = tmp_path / "fewer"
    edgetext(
        *("distill", "--corpus", tiny_corpus, "--run", run, *TINY_STUDENT, *SHORT[:2], *SHORT[4:]),
        *("--teacher", ensemble / "teacher-1", "--vocab-size", "280"),
    )
    tokenizer = Tokenizer.from_json((run / "tokenizer.json").read_bytes())
    assert tokenizer.vocab_size <= 280
    assert rows(run)["teacher"]["agreement"] == 1.0
    edgetext("export", run, "--int8")


def test_teachers_of_other_tokenizers_are_refused_before_training(ensemble, tiny_corpus, tmp_path):
    other = tmp_path / "other"
    edgetext(
        *("distill", "--corpus", tiny_corpus, "--run", other, "--recipe", "no-teacher", "--student", SMALL),
        *("--tokenizer", "char", "--distill-steps", "5", "--refine-steps", "0", "--no-frontier"),
    )
    said = edgetext(
        *("distill", "--corpus", tiny_corpus, "--run", tmp_path / "run", "--student", SMALL, *SHORT[:2]),
        *("--teacher", ensemble, "--teacher", other),
        fails=True,
    )
    assert "different tokenizers" in said
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "sentences.txt"
    path.write_text("\n".join(f"{text.strip()} {n}" for n in range(60) for text in SENTENCES) + "\n")
    return path


@pytest.mark.parametrize(("family", "student"), [("gpt2", SMALL), ("llama", TRANSFORMER)])
def test_a_hugging_face_teacher_is_fine_tuned_and_distilled(sentences, tmp_path, family, student):
    save_teacher(tmp_path / family, family, context=128)
    run = tmp_path / "run"
    steps = ("--finetune-steps", "30", "--finetune-rate", "3e-3", "--distill-steps", "30")
    rest = ("--refine-steps", "0", "--no-frontier", "--precision", "fp32", "--batch-size", "8")
    edgetext(
        *("distill", "--corpus", sentences, "--run", run, "--teacher", tmp_path / family, *steps, *rest),
        *("--student", student, "--sequence-length", "32"),
    )
    metrics = [json.loads(line) for line in (run / "teacher" / "metrics.jsonl").read_text().splitlines()]
    scores = [record["validation"]["score"] for record in metrics if "validation" in record]
    assert scores[-1] < scores[0] - 0.5
    found = rows(run)
    assert found["distilled"]["agreement"] > 0.1
    assert found["distilled"]["test_perplexity"] < 150
    edgetext("export", run, "--int8")
    edgetext("verify", run / "student-int8.etx")
    # The fine-tuned teacher keeps its vocabulary when it teaches again, whatever the corpus is then.
    again, other = tmp_path / "again", tmp_path / "other.txt"
    other.write_text("\n".join(f"Another text, number {n}, of zebras and quays." for n in range(80)) + "\n")
    options = ("--student", student, "--sequence-length", "32")
    edgetext("distill", "--corpus", other, "--run", again, "--teacher", run, *steps[4:], *rest, *options)
    assert (again / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    maps = [(directory / "teacher" / "vocabulary.json").read_bytes() for directory in (run, again)]
    assert maps[0] == maps[1]
    said = edgetext(
        *("distill", "--corpus", other, "--run", tmp_path / "cut", "--teacher", run, *steps[4:], *rest),
        *options,
        *("--vocab-size", "270"),
        fails=True,
    )
    assert "cut before" in said


def test_every_link_of_a_chain_may_have_its_own_text(ensemble, tiny_corpus, tmp_path):
    run = tmp_path / "chain"
    edgetext(
        *("distill", "--corpus", tiny_corpus, "--run", run, *TINY_STUDENT, *SHORT[:2], *SHORT[4:]),
        *("--teacher", ensemble, "--assistant", LARGE, "--recipe", "augmented", "--written-tokens", "2000"),
    )
    written = [(run / "data" / f"written-{name}.npy").read_bytes() for name in ("assistant", "distilled")]
    assert written[0] != written[1]
    assert list(rows(run))[-2:] == ["assistant", "distilled"]


def test_a_corpus_that_changed_under_its_teacher_is_noticed(sentences, tmp_path):
    save_teacher(tmp_path / "gpt2", "gpt2", context=128)
    corpus, run = tmp_path / "corpus.txt", tmp_path / "run"
    corpus.write_text(sentences.read_text())
    options = (
        *("distill", "--corpus", corpus, "--run", run, "--teacher", tmp_path / "gpt2", "--vocab-size", "262"),
        *("--refine-steps", "0", "--no-frontier", "--batch-size", "8", "--student", SMALL),
        *("--distill-steps", "5", "--sequence-length", "32"),
    )
    edgetext(*options)
    corpus.write_text("\n".join(f"xyxyx zuzu {n} xyxyx" for n in range(200)) + "\n")
    said = edgetext(*options, "--resume", fails=True)
    assert "another tokenizer" in said


def test_a_hugging_face_teacher_of_another_vocabulary_hands_over_text(sentences, tmp_path):
    save_teacher(tmp_path / "gpt2", "gpt2", context=128)
    run = tmp_path / "run"
    said = edgetext(
        *("distill", "--corpus", sentences, "--run", run, "--teacher", tmp_path / "gpt2"),
        *(
            "--finetune-steps",
            "30",
            "--finetune-rate",
            "3e-3",
            "--distill-steps",
            "20",
            "--tokenizer",
            "char",
        ),
        *("--recipe", "sequence-level", "--written-tokens", "3000", "--student", SMALL),
        *("--refine-steps", "0", "--no-frontier", "--batch-size", "8", "--sequence-length", "32"),
    )
    assert "teacher: writing 3,000 tokens" in said
    tokenizer = Tokenizer.from_json((run / "tokenizer.json").read_bytes())
    assert tokenizer.kind == "char"
    assert list(rows(run)) == ["distilled"]


def test_a_teacher_with_too_short_a_context_is_refused(sentences, tmp_path):
    save_teacher(tmp_path / "gpt2", "gpt2", context=64)
    said = edgetext(
        "distill",
        "--corpus",
        sentences,
        "--run",
        tmp_path / "run",
        "--teacher",
        tmp_path / "gpt2",
        "--student",
        SMALL,
        "--refine-steps",
        "0",
        fails=True,
    )
    assert "context=64" in said
    assert not (tmp_path / "run").exists()
