"""Several prompts at once: each is prefilled alone, then all take their steps together.

Sequences in one call must be equally long where the model has a KV cache, so those are grouped by length;
recurrent models are not particular. Rows that have finished are dropped once half of a group has.

For an fp32 bundle every text is what it would be alone; an int8 bundle's kernels scale the activations of all
rows together.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np

from .decoding import Transcript
from .request import Request, TokenSource, last_logits
from .results import Generation, Timings

MOST_ROWS = 32
"""Most sequences in one call: bounds the memory."""


@dataclass
class _Row:
    """One text of a batch."""

    request: Request
    source: TokenSource
    text: Transcript
    token: int | None
    prefill_s: float
    decode_s: float = 0.0

    def push(self) -> None:
        """Take the token that was chosen."""
        self.text.push(self.token, self.source.chooser)


def decode_batch(requests: Sequence[Request]) -> list[Generation]:
    """Generate for requests that share their settings but for the seed; errors are those of `decode`."""
    rows = [_begin(request) for request in requests]
    groups: defaultdict[int, list[_Row]] = defaultdict(list)
    for row in rows:
        if row.text.reason is None:
            cached = row.request.session.manifest.has_cache
            groups[row.source.state.length if cached else 0].append(row)
    for group in groups.values():
        for start in range(0, len(group), MOST_ROWS):
            _finish(group[start : start + MOST_ROWS])
    for row in rows:
        row.text.finish()
    return [r.text.result(Timings(r.prefill_s, r.decode_s), r.source.logprobs, r.source.likely) for r in rows]


def _begin(request: Request) -> _Row:
    started = time.perf_counter()
    source, text = TokenSource(request, Event()), Transcript(request)
    token = source.first()
    row = _Row(request, source, text, token, time.perf_counter() - started)
    row.push()
    return row


def _finish(rows: list[_Row]) -> None:
    """Run rows of one length to their ends."""
    session = rows[0].request.session
    limit, started = session.manifest.context_length, time.perf_counter()
    group = rows
    while group:
        if group[0].source.state.length == limit:
            _slide(group)
        else:
            states = [session.read_state(row.source.state) for row in group]
            arrays = [np.concatenate(parts) for parts in zip(*states, strict=True)]
            state = session.write_state(arrays, group[0].source.state.length)
            _run(group, state)
            for row, *parts in zip(group, *session.read_state(state), strict=True):
                if row.text.reason is None:
                    row.source.state = session.write_state([part[None] for part in parts], state.length)
        group = [row for row in group if row.text.reason is None]
    for row in rows:
        row.decode_s = time.perf_counter() - started


def _slide(group: list[_Row]) -> None:
    """The context of all is full: each goes on alone for one token, or ends."""
    for row in group:
        if row.request.settings.context_policy == "slide":
            row.token = row.source.slide(row.text.tokens)
            row.push()
        else:
            row.text.reason = "context"


def _run(group: list[_Row], state: Any) -> None:
    """Step together until half have finished or the context is full."""
    session, settings = group[0].request.session, group[0].request.settings
    limit, want_logits = session.manifest.context_length, group[0].source.want_logits
    running = len(group)
    while running > len(group) // 2 and state.length != limit:
        draws = [row.source.draw() if row.text.reason is None else 0.0 for row in group]
        step = session.run(
            np.array([[row.token or 0] for row in group]),
            state,
            sampling=settings.sampling,
            uniform=np.array(draws, np.float32),
            want_logits=want_logits,
        )
        logits = last_logits(step) if want_logits else None
        for at, row in enumerate(group):
            if row.text.reason is None:
                own = None if logits is None else logits[at]
                row.token = row.source.pick(int(step.next_token[at]), own, draws[at])
                row.push()
        running = sum(row.text.reason is None for row in group)
