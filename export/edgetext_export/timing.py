"""How long one token takes, measured through the runtime."""

from __future__ import annotations

import statistics
import time

from edgetext_runtime.generator import Generator
from edgetext_runtime.uniform import UniformStream

STEPS, ROUNDS, WARM_UP = 128, 3, 16
"""Tokens per round, rounds, and steps before them that are not counted (half a shorter context at most)."""


def measure_ms(generator: Generator, steps: int = STEPS, rounds: int = ROUNDS) -> float:
    """Return the median milliseconds per token: a step of the graph with sampling, and its text.

    Every round starts from an empty state; a Transformer is measured over its first `steps` positions.
    """
    session, sampling = generator.session, generator.defaults.sampling
    room = generator.manifest.context_length or steps + WARM_UP
    warm_up = min(WARM_UP, room // 2)
    steps = min(steps, room - warm_up)
    taken: list[int] = []
    for number in range(rounds):
        state, draws, text = session.new_state(), UniformStream(number), generator.tokenizer.stream()
        token = generator.manifest.eos_id
        for step in range(steps + warm_up):
            begin = time.perf_counter_ns()
            token = session.step(token, state, sampling, draws.next())
            text.push(token)
            if step >= warm_up:
                taken.append(time.perf_counter_ns() - begin)
    return statistics.median(taken) / 1e6
