"""A tiny corpus, and a tiny run made once from it by the real job."""

from pathlib import Path

import pytest

COLOURS = ("red", "blue", "green", "black", "white", "yellow")
ANIMALS = ("cat", "dog", "bird", "horse", "cow")
PLACES = ("on the hill", "by the river", "in the old town", "under a tree", "near the barn")
ACTIONS = ("sits", "sleeps", "waits", "sings")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory) -> Path:
    """600 short sentences, one a line."""
    lines = [
        f"the {colour} {animal} {action} {place}."
        for colour in COLOURS
        for animal in ANIMALS
        for action in ACTIONS
        for place in PLACES
    ]
    path = tmp_path_factory.mktemp("corpus") / "animals.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


TINY_OPTIONS = [
    *("--teacher", "lstm,embedding=24,hidden=32,layers=1,dropout=0.1"),
    *("--student", "lstm,embedding=16,hidden=16,layers=1,tied=true"),
    *("--vocab-size", "300", "--batch-size", "8", "--sequence-length", "32"),
    *("--teacher-steps", "40", "--distill-steps", "40", "--refine-steps", "12"),
    *("--checkpoint-every", "5", "--precision", "fp32"),
]
"""Options of `edgetext distill` that finish in seconds; fp32, so that every machine does the same."""
