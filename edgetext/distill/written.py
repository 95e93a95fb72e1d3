"""Text that a teacher writes, as a token stream for its student (Kim & Rush 2016)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgetext.checkpoint import PARTIAL, read_json, write_json
from edgetext.config import fingerprint
from edgetext.corpus.streams import TokenWriter
from edgetext.distill.teacher_text import TeacherText, teacher_text
from edgetext.distill.vocabulary import RestrictedGenerator
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.base import GeneratorModel, sample_tokens
from edgetext.training.data import open_stream
from edgetext.training.processes import by_main
from edgetext_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgetext.distill.teachers import Teacher
    from edgetext.distill.workspace import Workspace

TEXTS = 256
"""Texts drawn at a time."""
PROGRESS_S = 10.0
"""Seconds between lines while text is written."""
LONGEST = 4
"""A text ends after this many training windows at the latest."""


def written_stream(work: Workspace, stage: str, teacher: Teacher) -> NDArray[np.unsignedinteger]:
    """Return the stream of text the teacher wrote for a stage, drawn at temperature 1 from `<eos>`.

    Written once, as `data/written-STAGE.npy`; a text that does not end by itself within the teacher's context
    or `LONGEST` windows is cut there, and ends without a boundary where windows do not end with documents, so
    that nobody learns that books stop after a few lines. A teacher with ids of its own hands over text, which
    is encoded again; a cache brings the text that was cached with it. Raises CheckpointError if the run holds
    text of another teacher.
    """
    if teacher.cache is not None:
        return teacher.cache.written_stream()
    config = work.config
    wanted = config.written_tokens or len(work.train)
    longest = LONGEST * config.sequence_length
    context = teacher.view.config.context
    if context:
        longest = min(longest, context - 1)
    key = fingerprint(
        {"teacher": teacher.fingerprint, "tokens": wanted, "longest": longest, "seed": config.seed}
    )
    stream, record = (work.directory / "data" / f"written-{stage}.{kind}" for kind in ("npy", "json"))
    if record.exists():
        if read_json(record).get("fingerprint") != key:
            raise CheckpointError(
                f"{stream} was written by another teacher or with other options; use another "
                f"--run, or start again with --force"
            )
        return open_stream(stream)

    model = teacher.model
    if model is None:
        raise ConfigError("a cache cannot write text; give --teacher")

    def write() -> None:
        by_document = config.windows == "document"
        model.to(work.device)
        autocast = work.accelerator.autocast
        texts = drawn_texts(model, work.tokenizer, longest, config.seed, autocast, teacher.codec)
        write_texts(stream, work.tokenizer, texts, wanted, longest, by_document, work.say)
        write_json(record, {"fingerprint": key, "tokens": wanted, "longest": longest})

    by_main(work.accelerator, write)
    return open_stream(stream)


def write_texts(
    path: Path,
    tokenizer: Tokenizer,
    texts: Iterator[list[int]],
    wanted: int,
    longest: int,
    by_document: bool,
    say: Callable[[str], object],
) -> None:
    """Write a token stream of `wanted` tokens; it appears when it is whole.

    A text of `longest` tokens was cut; it ends without a boundary unless rows end with documents anyway.
    """
    draft = path.with_name(f".{path.name}{PARTIAL}")
    tokens = 0
    last = time.monotonic()
    say(f"teacher: writing {wanted:,} tokens")
    with TokenWriter(draft, tokenizer.vocab_size, tokenizer.eos_id) as writer:
        for text in texts:
            writer.write(text)
            if by_document or len(text) < longest:
                writer.end_document()
            tokens += len(text) + 1
            if tokens >= wanted:
                break
            if time.monotonic() - last >= PROGRESS_S:
                say(f"teacher: has written {tokens:,} of {wanted:,} tokens")
                last = time.monotonic()
    draft.replace(path)


def drawn_texts(
    model: GeneratorModel,
    tokenizer: Tokenizer,
    longest: int,
    seed: int,
    autocast: Callable[[], AbstractContextManager[object]],
    codec: TeacherText | None = None,
) -> Iterator[list[int]]:
    """Draw texts of at most `longest` tokens without end, as the ids of `tokenizer`.

    `codec` is that of a teacher with ids of its own, whose texts are encoded again.
    """
    suppressed = tuple(i for i in tokenizer.suppressed if i != tokenizer.unk_id)
    for batch in count():
        draw = (seed << 20) + batch
        with autocast():
            if codec is not None and isinstance(model, RestrictedGenerator):
                texts = [tokenizer.encode(t) for t in teacher_text(model, codec, TEXTS, longest, seed=draw)]
            else:
                texts = sample_tokens(model, TEXTS, longest, seed=draw, suppressed=suppressed)
        yield from texts
