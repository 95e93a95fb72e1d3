"""Judge the bundles of sentiment.toml: python judge_sentiment.py SWEEP polarity.csv OUT.json.

Perplexity of the held-out sentences, the label given and as a mixture of both; how often a classifier finds
the label that was asked for, by strength; and how likely the texts are under a trigram model of real ones.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from edgetext.corpus.config import CorpusConfig
from edgetext.evaluate.candidates import Bundled, document_nll
from edgetext.evaluate.kneser_ney import KneserNey
from edgetext.evaluate.label_judge import LabelJudge
from edgetext.evaluate.ngrams import distinct
from edgetext.evaluate.texts import RealText, read_corpus
from edgetext_runtime import Generator

SAMPLES = 1000
STRENGTHS = (0.0, 1.0, 2.0, 2.5, 3.0, 4.0)


def perplexity(model: Bundled, real: RealText, *, given: bool) -> float:
    """Return exp of the mean nats per token of all held-out sentences."""
    pairs = zip(real.test_documents, real.test_labels, strict=True)
    nats = [document_nll(model, text, label if given else None) for text, label in pairs]
    return float(np.exp(np.concatenate(nats).mean()))


def judge(path: Path, real: RealText, judges: dict[str, LabelJudge], referee: KneserNey) -> dict[str, Any]:
    """All figures of one bundle."""
    generator = Generator.load(path, threads=1)
    labels = generator.manifest.labels
    row: dict[str, Any] = {"perplexity": perplexity(Bundled("", generator), real, given=False)}
    for strength in STRENGTHS if labels else (1.0,):
        model = Bundled("", generator, strength=strength)
        texts = model.sample(SAMPLES, 1.0, 1)
        figures: dict[str, Any] = {
            "lm_score": referee.score(real.ids(text for text in texts if text.words)),
            "distinct_2": distinct([text.words for text in texts], (2,))[2],
            "words": mean(len(text.words) for text in texts),
        }
        if labels:
            asked = [labels[number % len(labels)] for number in range(SAMPLES)]
            figures |= {name: float(j.correct(texts, asked).mean()) for name, j in judges.items()}
            figures["perplexity_given"] = perplexity(model, real, given=True)
            figures["examples"] = [f"{asked[n]}: {' '.join(texts[n].words)}" for n in range(4)]
        row[f"strength {strength:g}"] = figures
    return row


def main(sweep: str, corpus: str, out: str) -> None:
    """Judge the bundles that are there, and print what their seeds have in common."""
    real = read_corpus(CorpusConfig(corpus, label_column="sentiment", test_fraction=0.1))
    judges = {
        "train_judge": LabelJudge(real.train, real.train_labels),
        "held_out_judge": LabelJudge(real.test, real.test_labels),
    }
    referee = KneserNey.fit(real.ids(real.train), real.vocab_size, end=None)
    people = {
        "train_judge": float(judges["train_judge"].correct(real.test, real.test_labels).mean()),
        "held_out_judge": float(judges["held_out_judge"].correct(real.train, real.train_labels).mean()),
        "lm_score": referee.score(real.ids(real.test)),
        "sentences": len(real.test),
    }
    path = Path(out)
    done: dict[str, dict[str, Any]] = {}
    if path.exists():  # go on where it was stopped
        done = json.loads(path.read_text(encoding="utf-8"))["bundles"]
    for bundle in sorted(Path(sweep).glob("*-seed*/student-int8.etx")):
        if bundle.parent.name not in done:
            done[bundle.parent.name] = judge(bundle, real, judges, referee)
        record = {"label": "measured", "samples": SAMPLES, "people": people, "bundles": done}
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(people))
    for kind in sorted({name.rpartition("-")[0] for name in done}):
        rows = [row for name, row in done.items() if name.startswith(f"{kind}-seed")]
        print(f"{kind}, {len(rows)} seeds: perplexity {spread([row['perplexity'] for row in rows])}")
        for strength in [name for name in rows[0] if name.startswith("strength")]:
            figures = [row[strength] for row in rows]
            names = [name for name in figures[0] if name != "examples"]
            cells = [f"{name} {spread([row[name] for row in figures])}" for name in names]
            print(f"  {strength}: " + ", ".join(cells))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
