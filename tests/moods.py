"""A tiny corpus with a label column: what animals do is good or bad."""

import json

import pytest

from edgetext.corpus import CorpusConfig

ROWS = [
    (f"the {animal} {verb} {place}", mood)
    for animal in ("cat", "dog", "cow", "bird")
    for place in ("on the hill", "in the old town", "by the river", "near the barn")
    for verb, mood in (("sings", "good"), ("dances", "good"), ("weeps", "bad"), ("limps", "bad"))
]
MOODS = {"sings": "good", "dances": "good", "weeps": "bad", "limps": "bad"}


def write(path, rows=ROWS):
    """The rows as a table of the ending's kind, label first."""
    if path.suffix == ".csv":
        path.write_text("mood,text\n" + "".join(f"{mood},{text}\n" for text, mood in rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"mood": mood, "text": text}) + "\n" for text, mood in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"mood": [mood for _, mood in rows], "text": [text for text, _ in rows]}
        parquet.write_table(pyarrow.table(columns), path)
    return path


def config(path, **options):
    options = {"label_column": "mood", "valid_fraction": 0.2, "test_fraction": 0.2, **options}
    return CorpusConfig(str(path), **options)
