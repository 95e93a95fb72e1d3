"""A Hugging Face teacher that shares no vocabulary with its student: fine-tuned and read out in its own.

Its ids are put in an order that gives edgetext's special ids their places (0 ends and begins a text, 1 is
padding), so that samplers, losses, evaluation and sampling work on it as on any generator. What it writes
reaches the student as text (sequence-level distillation, Kim & Rush 2016).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgetext.corpus.split import SPLITS, Split
from edgetext.corpus.streams import TokenWriter
from edgetext.distill.vocabulary import EOS_ID, PAD_ID, RestrictedGenerator, VocabularyMap
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.base import sample_tokens
from edgetext.models.huggingface import special_ids, transformers_library

__all__ = ["TeacherText", "teacher_text", "write_teacher_streams"]


class TeacherText:
    """Text to a Hugging Face teacher's ids and back, in the order that `vocabulary` describes.

    Attributes:
        vocabulary: every id of the teacher, with 0 and 1 as everywhere in edgetext.
        suppressed: ids never to be sampled: padding and the teacher's other special tokens.
    """

    def __init__(self, tokenizer: Any, teacher_size: int, end: int, begin: int) -> None:
        """Take a ``transformers`` tokenizer and the ids that end and begin a text; see `open`."""
        others = [i for i in range(teacher_size) if i != end]
        self.vocabulary = VocabularyMap((end, end, *others), teacher_size, begin)
        self._tokenizer = tokenizer
        self._own = np.zeros(teacher_size, dtype=np.int64)  # teacher id → ours
        self._own[self.vocabulary.array] = np.arange(len(self.vocabulary.ids))
        self._own[end] = EOS_ID
        special = {int(i) for i in tokenizer.all_special_ids if i < teacher_size} - {end}
        unwritten = set(range(len(tokenizer), teacher_size))  # rows that only round the matrix up
        self.suppressed = (PAD_ID, *sorted(int(self._own[i]) for i in special | unwritten))

    @classmethod
    def open(cls, directory: Path | str, teacher_size: int) -> TeacherText:
        """Read the tokenizer of a model directory; `teacher_size` is the model's ``config.vocab_size``.

        Raises DependencyError without ``transformers``, CheckpointError if there is no tokenizer to read.
        """
        library = transformers_library()
        end, begin = special_ids(directory)
        try:
            tokenizer = library.AutoTokenizer.from_pretrained(
                Path(directory),
                local_files_only=True,
                trust_remote_code=False,
                split_special_tokens=True,  # no text can inject a special token
                model_max_length=1 << 30,
            )
        except Exception as error:  # whatever a damaged file makes the library raise
            raise CheckpointError(
                f"the tokenizer in {directory} cannot be read: {type(error).__name__}: {error}"
            ) from error
        return cls(tokenizer, teacher_size, end, begin)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens around them."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        coded: list[int] = self._own[ids].tolist() if ids else []
        return coded

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens give none."""
        teacher = [self.vocabulary.ids[i] for i in ids if i not in (EOS_ID, PAD_ID)]
        text: str = self._tokenizer.decode(
            teacher, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def teacher_text(
    teacher: RestrictedGenerator,
    codec: TeacherText,
    count: int,
    length: int,
    *,
    seed: int,
    temperature: float = 1.0,
    batch: int = 64,
) -> Iterator[str]:
    """Draw `count` texts of at most `length` of the teacher's tokens and yield those that are not blank.

    `teacher` is seen through ``codec.vocabulary``. A text that reaches `length` is cut there. Deterministic
    for a seed and a batch size. Raises ConfigError if `length` exceeds the teacher's context.
    """
    if length > teacher.config.context:
        raise ConfigError(
            f"texts of {length} tokens exceed the teacher's context of {teacher.config.context}; lower "
            f"--sequence-length"
        )
    for number, first in enumerate(range(0, count, batch)):
        draw = int(np.random.default_rng([seed, number]).integers(2**62))
        for ids in sample_tokens(
            teacher,
            min(batch, count - first),
            length,
            seed=draw,
            temperature=temperature,
            suppressed=codec.suppressed,
            batch=batch,
        ):
            text = codec.decode(ids)
            if text.strip():
                yield text


def write_teacher_streams(
    folder: Path, documents: Iterable[tuple[Split, str]], codec: TeacherText
) -> dict[str, int]:
    """Write a corpus in the teacher's own ids as ``<split>.npy`` streams; returns the tokens of each.

    `documents` are those of the run's corpus with their splits (`corpus.split.labelled_documents`). The
    streams are read by `training.data.open_stream` as all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                TokenWriter(folder / f"{split}.npy", len(codec.vocabulary.ids), EOS_ID)
            )
            for split in SPLITS
        }
        for split, text in documents:
            writers[split].write(codec.encode(text))
            writers[split].end_document()
    return {split: writer.tokens for split, writer in writers.items()}
