"""Text that a teacher writes, as a token stream for its student (Kim & Rush 2016)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgetext.checkpoint import read_json, write_json
from edgetext.config import fingerprint
from edgetext.corpus.streams import TokenWriter
from edgetext.distill.teacher_text import teacher_text
from edgetext.distill.vocabulary import RestrictedGenerator
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.base import sample_tokens
from edgetext.training.data import open_stream
from edgetext.training.processes import by_main

if TYPE_CHECKING:
    from edgetext.distill.teachers import Teacher
    from edgetext.distill.workspace import Workspace

STREAM_FILE = "written.npy"
RECORD_FILE = "written.json"
TEXTS = 256
"""Texts drawn at a time."""
PROGRESS_S = 10.0
"""Seconds between lines while text is written."""
LONGEST = 4
"""A text ends after this many training windows at the latest."""


def written_stream(work: Workspace, teacher: Teacher) -> NDArray[np.unsignedinteger]:
    """Return the stream of text the teacher wrote for this run, drawn at temperature 1 from `<eos>`.

    Written once, as `data/written.npy`; a text that does not end by itself within the teacher's context or
    `LONGEST` windows is cut there. A teacher with ids of its own hands over text, which is encoded again.
    Raises CheckpointError if the run holds text of another teacher.
    """
    config = work.config
    wanted = config.written_tokens or len(work.train)
    longest = LONGEST * config.sequence_length
    context = teacher.view.config.context
    if context:
        longest = min(longest, context - 1)
    key = fingerprint(
        {"teacher": teacher.fingerprint, "tokens": wanted, "longest": longest, "seed": config.seed}
    )
    data = work.directory / "data"
    if (data / RECORD_FILE).exists():
        if read_json(data / RECORD_FILE).get("fingerprint") != key:
            raise CheckpointError(
                f"{data / STREAM_FILE} was written by another teacher or with other options; use another "
                f"--run, or start again with --force"
            )
        return open_stream(data / STREAM_FILE)

    def write() -> None:
        partial = data / f".{STREAM_FILE}.partial"
        _write(work, teacher, partial, wanted, longest)
        partial.replace(data / STREAM_FILE)
        write_json(data / RECORD_FILE, {"fingerprint": key, "tokens": wanted, "longest": longest})

    by_main(work.accelerator, write)
    return open_stream(data / STREAM_FILE)


def _write(work: Workspace, teacher: Teacher, path: Path, wanted: int, longest: int) -> None:
    """Draw texts until there are `wanted` tokens."""
    tokenizer = work.tokenizer
    with TokenWriter(path, tokenizer.vocab_size, tokenizer.eos_id) as writer:
        tokens = 0
        last = time.monotonic()
        work.say(f"teacher: writing {wanted:,} tokens")
        for text in _texts(work, teacher, longest):
            writer.write(text)
            writer.end_document()
            tokens += len(text) + 1
            if tokens >= wanted:
                return
            if time.monotonic() - last >= PROGRESS_S:
                work.say(f"teacher: has written {tokens:,} of {wanted:,} tokens")
                last = time.monotonic()


def _texts(work: Workspace, teacher: Teacher, longest: int) -> Iterator[list[int]]:
    """Texts of the teacher as the student's ids, without end."""
    model, tokenizer, codec = teacher.model, work.tokenizer, teacher.codec
    if model is None:
        raise ConfigError("a cache cannot write text; give --teacher")
    model.to(work.device)
    suppressed = tuple(i for i in tokenizer.suppressed if i != tokenizer.unk_id)
    for batch in count():
        seed = (work.config.seed << 20) + batch
        if codec is None:
            yield from sample_tokens(model, TEXTS, longest, seed=seed, suppressed=suppressed)
        elif isinstance(model, RestrictedGenerator):
            for text in teacher_text(model, codec, TEXTS, longest, seed=seed):
                yield tokenizer.encode(text)
