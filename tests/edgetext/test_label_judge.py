"""Labels from end to end: a run, its bundle, and the classifier that tells labels."""

from dataclasses import replace

import numpy as np
import pytest
from moods import MOODS, ROWS, config, write

from edgetext.config import DistillConfig
from edgetext.corpus import CorpusConfig
from edgetext.distill.recipes import RECIPES
from edgetext.distill.run import distill
from edgetext.errors import ConfigError
from edgetext.evaluate.evaluation import EvaluationSettings, evaluate
from edgetext.evaluate.evaluation_report import notes, tables
from edgetext.evaluate.label_judge import LabelJudge
from edgetext.evaluate.texts import read_text
from edgetext_export import export_run
from edgetext_runtime import Generator

SHAPE = "lstm,embedding=16,hidden=24,layers=1,tied=true"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("corpus") / "moods.csv")


def settings_of(table):
    """A short training on the table."""
    return DistillConfig(
        corpus=config(table),
        tokenizer="word",
        windows="document",
        teachers=(SHAPE,),
        student=SHAPE,
        teacher_steps=100,
        distill_steps=100,
        teacher_rate=0.03,
        student_rate=0.03,
        refine_steps=0,
        frontier=False,
        precision="fp32",
        batch_size=8,
    )


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """A finished run: conditioned teacher, student distilled from it."""
    directory = tmp_path_factory.mktemp("runs") / "moods"
    result = distill(settings_of(table), directory)
    assert result["student"] == "distilled"
    return directory


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "moods.etx"
    export_run(run, path, "int8")
    return path


def test_the_students_texts_are_of_the_mood_that_was_asked_for(bundle):
    generator = Generator.load(bundle, threads=1)
    for mood in ("good", "bad"):
        texts = [generator.generate(label=mood, seed=seed, max_new_tokens=12).text for seed in range(20)]
        moods = [MOODS[word] for text in texts for word in text.split() if word in MOODS]
        assert moods.count(mood) >= 0.9 * len(moods) > 15


def test_the_judge_learns_from_texts_and_is_the_same_again():
    texts, labels = [read_text(text) for text, _ in ROWS], [mood for _, mood in ROWS]
    judge = LabelJudge(texts[:48], labels[:48])  # all animals but one
    assert judge.labels == ("bad", "good")
    assert judge.correct(texts[48:], labels[48:]).mean() == 1
    again = LabelJudge(texts[:48], labels[:48])
    assert np.array_equal(judge(texts), again(texts))
    assert judge([read_text("nothing known here"), read_text("")]).shape == (2,)


def test_three_labels_are_told_apart():
    words = {"red": "rose", "blue": "sky", "green": "grass"}
    texts = [read_text(f"the {noun} number {n % 7}") for n in range(30) for noun in words.values()]
    labels = [colour for _ in range(30) for colour in words]
    assert LabelJudge(texts, labels).correct(texts, labels).mean() == 1


def test_eval_judges_texts_by_label_and_strength(bundle, run, table):
    corpus = config(table)
    settings = EvaluationSettings(samples=40, scored=5, seeds=1, documents=10)
    record = evaluate([bundle, run], corpus, settings)
    middle = evaluate([bundle], corpus, replace(settings, documents=0, label_strengths=(0.0,)))
    figures = {row["model"]: row["figures"] for row in [*middle["rows"], *record["rows"]]}
    assert set(figures) == {"people", str(bundle), str(run), f"{bundle}, strength 0"}
    accuracy = {name: row["label_accuracy"]["mean"] for name, row in figures.items()}
    assert accuracy["people"] == 1
    assert accuracy[str(bundle)] >= 0.85 <= accuracy[str(run)]
    assert 0.3 < accuracy[f"{bundle}, strength 0"] < 0.7  # nothing tells the labels apart
    given, mixed = (figures[str(bundle)][name]["mean"] for name in ("nll_given", "nll_test"))
    assert given < mixed
    assert figures[str(run)]["nll_given"]["mean"] == pytest.approx(given, abs=0.05)
    shown = "\n".join(body for _, body in tables(record))
    assert "label" in shown
    assert "ppl test, label given" in shown
    assert any(note.startswith("Label:") for note in notes(record))


def test_a_corpus_with_other_labels_or_none_is_met_clearly(bundle, table, tmp_path):
    other = write(tmp_path / "other.csv", [(text, mood.upper()) for text, mood in ROWS])
    settings = EvaluationSettings(samples=4, seeds=1, documents=4)
    with pytest.raises(ConfigError, match=r"has the labels bad, good.*BAD, GOOD"):
        evaluate([bundle], config(other), settings)
    plain = CorpusConfig(str(table), column="text", valid_fraction=0.2, test_fraction=0.2)
    figures = evaluate([bundle], plain, settings)["rows"][1]["figures"]
    assert "label_accuracy" not in figures
    assert "nll_test" in figures


def test_the_strength_is_of_bundles_alone(run, table):
    settings = EvaluationSettings(samples=4, seeds=1, documents=0, label_strengths=(2.0,))
    with pytest.raises(ConfigError, match="--label-strength is for bundles"):
        evaluate([run], config(table), settings)


def test_a_teacher_without_labels_teaches_a_student_with_them(run, table, tmp_path):
    plain = CorpusConfig(str(table), column="text", valid_fraction=0.2, test_fraction=0.2)
    settings = replace(
        settings_of(table), corpus=plain, recipe=RECIPES["no-teacher"], teachers=(), student=SHAPE
    )
    distill(replace(settings, distill_steps=10), tmp_path / "teacher")
    teachers = (str(tmp_path / "teacher"),)
    result = distill(replace(settings_of(table), teachers=teachers, distill_steps=10), tmp_path / "student")
    assert [row["name"] for row in result["models"]] == ["teacher", "distilled"]


def test_a_teacher_of_other_labels_is_refused(run, tmp_path):
    bare = write(tmp_path / "bare.csv", [(text, mood.upper()) for text, mood in ROWS])
    settings = replace(settings_of(bare), teachers=(str(run),))
    with pytest.raises(ConfigError, match="teacher knows the labels bad, good; this corpus has BAD, GOOD"):
        distill(settings, tmp_path / "run")
