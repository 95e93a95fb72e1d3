"""Judge the bundles of sentiment.toml: python judge_sentiment.py SWEEP polarity.csv OUT.json.

Perplexity of the held-out sentences, the label given and as a mixture of both; how often a classifier finds
the label that was asked for, by strength; and how likely the texts are under a trigram model of real ones.
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from edgetext.corpus.config import CorpusConfig
from edgetext.evaluate.candidates import Bundled, document_nll
from edgetext.evaluate.kneser_ney import KneserNey
from edgetext.evaluate.label_judge import LabelJudge
from edgetext.evaluate.ngrams import distinct
from edgetext.evaluate.texts import RealText, read_corpus
from edgetext_runtime import Generator

SAMPLES = 1000
STRENGTHS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
SEEDS = (0, 1, 2)


def perplexity(model: Bundled, real: RealText, *, given: bool) -> float:
    """Return exp of the mean nats per token of all held-out sentences."""
    pairs = zip(real.test_documents, real.test_labels, strict=True)
    nats = [document_nll(model, text, label if given else None) for text, label in pairs]
    return float(np.exp(np.concatenate(nats).mean()))


def judge(path: Path, real: RealText, judges: dict[str, LabelJudge], referee: KneserNey) -> dict[str, object]:
    """All figures of one bundle."""
    generator = Generator.load(path, threads=1)
    labels = generator.manifest.labels
    row: dict[str, object] = {"perplexity": perplexity(Bundled("", generator), real, given=False)}
    for strength in STRENGTHS if labels else (1.0,):
        model = Bundled("", generator, strength=strength)
        texts = model.sample(SAMPLES, 1.0, 1)
        figures = {
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
    """Judge three conditioned and three plain bundles, and print what their seeds have in common."""
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
        "test_sentences": len(real.test),
    }
    record: dict[str, object] = {"label": "measured", "samples": SAMPLES, "people": people}
    for kind in ("plain", "conditioned"):
        for seed in SEEDS:
            path = Path(sweep) / f"{kind}-seed{seed}" / "student-int8.etx"
            record[f"{kind}-seed{seed}"] = judge(path, real, judges, referee)
            print(kind, seed, flush=True)
    Path(out).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(people))
    plain = [record[f"plain-seed{seed}"]["perplexity"] for seed in SEEDS]
    mixed = [record[f"conditioned-seed{seed}"]["perplexity"] for seed in SEEDS]
    print(
        f"perplexity: plain {mean(plain):.2f} ± {stdev(plain):.2f}, "
        f"mixture {mean(mixed):.2f} ± {stdev(mixed):.2f}"
    )
    for strength in STRENGTHS:
        rows = [record[f"conditioned-seed{seed}"][f"strength {strength:g}"] for seed in SEEDS]
        cells = []
        for name in ("perplexity_given", "train_judge", "held_out_judge", "lm_score", "distinct_2", "words"):
            values = [row[name] for row in rows]
            cells.append(f"{name} {mean(values):.3f} ± {stdev(values):.3f}")
        print(f"strength {strength:g}: " + ", ".join(cells))


if __name__ == "__main__":
    main(*sys.argv[1:])
