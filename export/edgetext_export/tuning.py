"""Which way to store the weights is fastest here: whole steps of candidate graphs, measured in turns.

Single products would mislead: what a product costs depends on how much of the model the cache holds. With a
limit to flips the fastest of those that keep to it is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from edgetext_export.golden import kernel
from edgetext_export.recipes import COLUMNS, Recipe, Scheme
from edgetext_runtime.engine import StepBackend
from edgetext_runtime.sampling import SamplingParams

STEPS, ROUNDS, WARM_UP = 64, 5, 8
"""Steps per candidate and round, rounds, and steps before that are not counted."""
GAIN = 0.03
"""A candidate must be faster than the recipe by this share to be taken, or noise would choose."""
_SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.95)
_LONG = Scheme("blocks", block=128)


def candidates(recipe: Recipe, *, kind: str, tied: bool) -> dict[str, Recipe]:
    """The recipe, and what may be faster: longer blocks in the output layer, one scale per output, cells."""
    head = {"embedding.weight" if tied else "head.weight": _LONG}
    cells = {"LSTM layers as cells": replace(recipe, decomposed=True)} if kind == "lstm" else {}
    return {
        "as the recipe says": recipe,
        "output layer in blocks of 128": replace(recipe, chosen=head),
        "one scale per output inside": replace(recipe, matrices=COLUMNS),
        **cells,
    }


def tune(
    recipe: Recipe,
    kind: str,
    tied: bool,
    build: Callable[[Recipe], StepBackend],
    flips: Callable[[StepBackend], float] | None = None,
    most: float = 1.0,
) -> Recipe:
    """Return the fastest of `candidates` on this machine at one thread, with the measurements as its record.

    Args:
        recipe: an 8-bit recipe.
        kind: of the model, such as ``lstm``.
        tied: whether the output layer shares the embedding.
        build: makes a session of the model under a recipe.
        flips: measures the share of positions whose likeliest token is not torch's; None: not looked at.
        most: the largest such share that is taken, if a candidate keeps to it.
    """
    tried = candidates(recipe, kind=kind, tied=tied)
    sessions = {label: build(candidate) for label, candidate in tried.items()}
    taken: dict[str, list[float]] = {label: [] for label in tried}
    for _ in range(ROUNDS):
        for label, session in sessions.items():
            taken[label] += _steps(session)
    microseconds = {label: round(median(samples) * 1e6, 1) for label, samples in taken.items()}
    record: dict[str, Any] = {"us_per_step": microseconds, "kernel": kernel()}
    admitted = microseconds
    if flips is not None:
        shares = {label: round(flips(session), 5) for label, session in sessions.items()}
        record |= {"flips": shares, "max_flip": most}
        admitted = {label: us for label, us in microseconds.items() if shares[label] <= most} or microseconds
    label = choose(admitted)
    return replace(tried[label], record={"chosen": label, **record})


def choose(microseconds: Mapping[str, float]) -> str:
    """Return the fastest, or the first unless another is faster by `GAIN`."""
    first, fastest = next(iter(microseconds)), min(microseconds, key=microseconds.__getitem__)
    return fastest if microseconds[fastest] < (1 - GAIN) * microseconds[first] else first


def _steps(session: StepBackend) -> list[float]:
    """Seconds of single steps from an empty state, sampling included."""
    state, token, taken = session.new_state(), session.manifest.eos_id, []
    most = (session.manifest.context_length or STEPS + WARM_UP) - 1
    for step in range(min(STEPS + WARM_UP, most)):
        begin = time.perf_counter()
        token = session.step(token, state, _SAMPLING, 0.5)
        if step >= min(WARM_UP, most // 2):
            taken.append(time.perf_counter() - begin)
    return taken
