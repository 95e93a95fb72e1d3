"""`edgetext eval`: any set of models before one referee, at one temperature or over a sweep of them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext.corpus.config import CorpusConfig
from edgetext.errors import ConfigError
from edgetext.evaluate.candidates import Candidate, document_nll, likeness, open_candidate
from edgetext.evaluate.dominance import Sweep, compare_all
from edgetext.evaluate.features import Features
from edgetext.evaluate.intervals import Estimate, Items, estimate, items
from edgetext.evaluate.judging import Judge
from edgetext.evaluate.label_judge import LabelJudge
from edgetext.evaluate.oracle import load_oracle
from edgetext.evaluate.summary import processor
from edgetext.evaluate.texts import MOST_WORDS, RealText, Text, read_corpus, spread
from edgetext_runtime.options import ChooseBy

PEOPLE = "people"
FORMAT = "edgetext-evaluation-1"
Point = tuple[float, float]
_SEED = re.compile(r"-seed\d+(?=[/.,]|$)")


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged."""

    samples: int = 1000
    """Texts of a set. Self-BLEU, distinct-n and reverse-LM score depend on it, so all rows share it."""
    scored: int = 1000
    """Texts of a set whose BLEU and Self-BLEU are averaged, the first ones; the whole set are references."""
    seeds: int = 3
    """Sample sets per model and temperature."""
    temperatures: tuple[float, ...] = (1.0,)
    """Sampling temperatures; several draw a frontier."""
    documents: int = 1000
    """Documents of each split that likelihoods are measured on, evenly spaced; 0: none."""
    features: Path | None = None
    """Model directory whose hidden states Fréchet distance and MAUVE compare."""
    teacher: Path | None = None
    """Model that agreement and KL are measured against."""
    oracle: Path | None = None
    """Folder with the arrays of the SeqGAN oracle."""
    neural: bool = False
    """Whether a neural referee judges as well."""
    best_of: int = 1
    """Above 1, bundles are judged again with so many candidates per text, of which the runtime keeps one."""
    choose_by: tuple[ChooseBy, ...] = ("resample",)
    """Which: the likeliest, or by the bundle's discriminator ``top`` or ``resample``; each is judged."""
    label_strengths: tuple[float, ...] = (1.0,)
    """Strengths of the labels with which conditioned bundles write; each is judged."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for flag, value, least in (
            ("--samples", self.samples, 2),
            ("--scored", self.scored, 1),
            ("--seeds", self.seeds, 1),
            ("--documents", self.documents, 0),
            ("--best-of", self.best_of, 1),
        ):
            if value < least:
                raise ConfigError(f"{flag} is {value}; it must be at least {least}")
        if not self.temperatures or not all(0 < t < 100 and math.isfinite(t) for t in self.temperatures):
            raise ConfigError(f"--temperature is {self.temperatures}; every one must be above 0")
        for flag, values in (
            ("--temperature", self.temperatures),
            ("--choose-by", self.choose_by),
            ("--label-strength", self.label_strengths),
        ):
            if len(set(values)) < len(values):
                raise ConfigError(f"{flag} is given twice with one value; name each once")
        if self.teacher is not None and not self.documents:
            raise ConfigError("--teacher is compared on test documents; raise --documents, or leave it out")


def evaluate(
    models: Sequence[Path],
    corpus: CorpusConfig,
    settings: EvaluationSettings,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Judge models against a corpus; returns the record: protocol, rows, sweeps, who dominates whom.

    Raises ConfigError, CorpusError, CheckpointError or BundleError before anything long is begun, wherever
    that can be known.
    """
    if len({str(path) for path in models}) < len(models):
        raise ConfigError("a model is given twice; name each once")
    candidates = _candidates(models, settings)
    teacher = None if settings.teacher is None else open_candidate(settings.teacher)
    if teacher is not None:
        for model in candidates:
            likeness(model, teacher, [])  # refuses other vocabularies before anything long
    features = None if settings.features is None else Features(open_candidate(settings.features))
    oracle = None if settings.oracle is None else load_oracle(settings.oracle)
    real = read_corpus(corpus)
    say(f"corpus: {len(real.train):,} training and {len(real.test):,} test documents")
    labels = _label_judge(real, candidates)
    judge = Judge(
        real, settings.samples, settings.scored, features=features, neural=settings.neural, oracle=oracle
    )
    people = judge.judge(judge.people(), people=True)
    if labels is not None:
        people["label_accuracy"] = _share([labels.correct(real.test, real.test_labels)])
    rows: list[dict[str, Any]] = [{"model": PEOPLE, "temperature": None, "figures": people}]
    sweeps: dict[str, list[Sweep]] = {}
    groups = by_seed(candidates)
    for name, members in groups.items():
        likelihoods = _likelihoods(members, teacher, real, settings)
        points: list[list[Point]] = [[] for _ in range(len(members) * settings.seeds)]
        for temperature in sorted(settings.temperatures):
            say(f"{name}: temperature {temperature:g}")
            sets = [
                member.sample(settings.samples, temperature, 1 + number)
                for member in members
                for number in range(settings.seeds)
            ]
            figures = judge.judge(sets)
            figures |= _label_accuracy(labels, members[0].labels, sets)
            if not figures:
                say(f"{name}: temperature {temperature:g} gives too few texts with words to judge")
            rows.append({"model": name, "temperature": temperature, "figures": {**likelihoods, **figures}})
            if len(settings.temperatures) > 1:
                for sweep, texts in zip(points, sets, strict=True):
                    sweep.append(judge.score(texts))
        if len(settings.temperatures) > 1:
            sweeps[name] = _by_training(points, settings.seeds) if len(members) > 1 else list(points)
    _add_human_distance(rows)
    return {
        "format": FORMAT,
        "label": "measured",
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "protocol": {
            **_protocol(corpus, settings, real, judge),
            "trainings": {name: len(members) for name, members in groups.items()},
        },
        "rows": [{**row, "figures": {k: asdict(v) for k, v in row["figures"].items()}} for row in rows],
        "sweeps": sweeps,
        "dominance": [asdict(found) for found in compare_all(sweeps)],
    }


def by_seed(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Put trainings that differ in their seed alone together: in `-seedN`, as sweeps name their runs."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(_SEED.sub("", candidate.name), []).append(candidate)
    return {(name if len(group) > 1 else group[0].name): group for name, group in groups.items()}


def _by_training(points: Sequence[Sequence[Point]], sets: int) -> list[Sweep]:
    """One sweep per training: the mean over its sample sets, so that the spread is that of trainings."""
    means = np.array(points).reshape(len(points) // sets, sets, -1, 2).mean(1)
    return [[(float(x), float(y)) for x, y in sweep] for sweep in means]


def _candidates(models: Sequence[Path], settings: EvaluationSettings) -> list[Candidate]:
    """The models, then the bundles among them as the settings want them judged again."""
    candidates = [open_candidate(path) for path in models]
    plain = list(zip(models, candidates, strict=True))
    for strength in settings.label_strengths:
        again = [path for path, model in plain if model.labels and strength != 1]
        candidates += [open_candidate(path, strength=strength) for path in again]
    for path in models if settings.best_of > 1 else ():
        candidates += [open_candidate(path, settings.best_of, by) for by in settings.choose_by]
    return candidates


def _label_judge(real: RealText, candidates: Sequence[Candidate]) -> LabelJudge | None:
    """What tells the labels of texts, where the corpus has such. Raises ConfigError if a model has others."""
    if not real.train_labels:
        return None
    judge = LabelJudge(real.train, real.train_labels)
    for model in candidates:
        if model.labels and model.labels != judge.labels:
            raise ConfigError(
                f"{model.name} has the labels {', '.join(model.labels)}, --label-column of the corpus "
                f"{', '.join(judge.labels)}; give the column that the model was trained with"
            )
    return judge


def _label_accuracy(
    judge: LabelJudge | None, labels: Sequence[str], sets: Sequence[Sequence[Text]]
) -> dict[str, Estimate]:
    """Share of texts, which were asked to be of the labels in turn, that are."""
    if judge is None or not labels:
        return {}
    asked = [[labels[number % len(labels)] for number in range(len(texts))] for texts in sets]
    pairs = zip(sets, asked, strict=True)
    return {"label_accuracy": _share([judge.correct(texts, wanted) for texts, wanted in pairs])}


def _share(sets: Sequence[NDArray[np.float64]]) -> Estimate:
    """Mean over the texts of sets."""
    return estimate([Items(values, np.ones(len(values))) for values in sets])


def _likelihoods(
    members: Sequence[Candidate], teacher: Candidate | None, real: RealText, settings: EvaluationSettings
) -> dict[str, Estimate]:
    """Nats per token and per character on both splits, and closeness to the teacher on the test split."""
    figures: dict[str, Estimate] = {}
    if not settings.documents:
        return figures
    for split, documents in (("train", real.train_documents), ("test", real.test_documents)):
        chosen = spread(documents, settings.documents)
        nats = [[document_nll(model, document) for document in chosen] for model in members]
        figures[f"nll_{split}"] = estimate([items(rows) for rows in nats])
        figures[f"perplexity_{split}"] = _exponential(figures[f"nll_{split}"])
        characters = np.array([len(document) + 1.0 for document in chosen])
        figures[f"nll_per_character_{split}"] = estimate(
            [Items(np.array([n.sum() for n in rows]), characters) for rows in nats]
        )
    if members[0].labels and real.test_labels:
        pairs = spread(list(zip(real.test_documents, real.test_labels, strict=True)), settings.documents)
        given = [items([document_nll(model, *pair) for pair in pairs]) for model in members]
        figures["nll_given"] = estimate(given)
        figures["perplexity_given"] = _exponential(figures["nll_given"])
    if teacher is not None:
        chosen = spread(real.test_documents, settings.documents)
        compared = [likeness(model, teacher, chosen) for model in members]
        figures["agreement"] = estimate([Items(same, tokens) for tokens, same, _ in compared])
        figures["kl_teacher"] = estimate([Items(kl, tokens) for tokens, _, kl in compared])
    return figures


def _exponential(value: Estimate) -> Estimate:
    """Perplexity of a mean in nats, its interval with it."""
    with np.errstate(over="ignore"):  # infinite for a model that gives a text no chance
        low, high = (None if bound is None else float(np.exp(bound)) for bound in (value.low, value.high))
        return Estimate(float(np.exp(value.mean)), low, high)


def _add_human_distance(rows: Sequence[Mapping[str, Any]]) -> None:
    """Mean absolute difference to the human row over the eight BLEU and Self-BLEU columns."""
    people = rows[0]["figures"]
    names = [name for name in people if name.startswith(("bleu_", "self_bleu_"))]
    for row in rows[1:]:
        figures = row["figures"]
        if names and all(name in figures for name in names):
            differences = [abs(figures[name].mean - people[name].mean) for name in names]
            figures["human_distance"] = Estimate(float(np.mean(differences)))


def _protocol(
    corpus: CorpusConfig, settings: EvaluationSettings, real: RealText, judge: Judge
) -> dict[str, Any]:
    """What must be known to repeat the figures, or to set others beside them."""
    chosen = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    return {
        **chosen,
        "temperatures": list(settings.temperatures),
        "choose_by": list(settings.choose_by),
        "label_strengths": list(settings.label_strengths),
        "corpus": Path(corpus.source).name,
        "references": judge.references.size,
        "people_sets": len(judge.people()),
        "people_texts": len(judge.people()[0]),
        "train_documents": len(real.train),
        "test_documents": len(real.test),
        "word_types": len(real.vocabulary),
        "most_words": MOST_WORDS,
        "likelihood": "by document, fresh state, rows of at most 128 targets, ends included",
        "intervals": "95 %, bootstrap over texts within each set",
    }
