"""A tiny corpus, and the mask of the losses' tests."""

from pathlib import Path

import pytest
import torch
from loss_cases import LENGTHS, T
from torch import Tensor

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


@pytest.fixture
def mask() -> Tensor:
    """Real positions [B,T] of a batch whose rows differ in length."""
    return torch.arange(T)[None] < torch.tensor(LENGTHS)[:, None]
