"""What given teachers bring: their tokenizer, and how a student of another vocabulary reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgetext.config import DistillConfig
from edgetext.corpus.split import labelled_documents
from edgetext.distill.directory import find_teachers
from edgetext.errors import ConfigError
from edgetext.evaluate.likelihood import WINDOW
from edgetext.models.config import ModelConfig
from edgetext_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgetext.distill.cache import TargetCache
    from edgetext.distill.vocabulary import VocabularyMap


_READ_TWICE = "the corpus is read twice here, which standard input cannot be; save it as a file (--corpus)"


@dataclass(frozen=True)
class Given:
    """What a run takes over from its given teachers or its cache."""

    tokenizer: bytes | None = None
    """tokenizer.json of the student; None trains one."""
    maps: dict[str, VocabularyMap] = field(default_factory=dict)
    """Model directory → how the student's ids are the teacher's; empty where they are the same."""
    foreign: Path | None = None
    """A Hugging Face teacher that hands over text only: the student has a tokenizer of its own."""


def open_cache(config: DistillConfig) -> TargetCache:
    """Open the configured cache."""
    from edgetext.distill.cache import TargetCache

    return TargetCache.open(Path(str(config.cache)))


def read_given(config: DistillConfig) -> Given:
    """Read the tokenizers of the given teachers or cache; may read the corpus to see which tokens it needs.

    Raises ConfigError if they differ, or cannot be shared with a student.
    """
    if config.cache is not None:
        return Given(open_cache(config).tokenizer)
    sources: dict[str, tuple[list[Path], bytes]] = {}
    for text in config.teachers:
        if Path(text).is_dir():
            sources[text] = find_teachers(Path(text))
    if not sources:
        return Given()
    if len({tokenizer for _, tokenizer in sources.values()}) > 1:
        raise ConfigError(
            f"the teachers {', '.join(sources)} have different tokenizers, so their distributions cannot be "
            f"compared; give teachers of one run, or one of them"
        )
    models = [model for places, _ in sources.values() for model in places]
    tokenizer = next(iter(sources.values()))[1]
    if not any(is_raw_huggingface(model) for model in models):
        return _restricted(config, models, tokenizer)
    if config.recipe.by_text_alone():
        return _by_text(config, models[0])
    return _shared(config, models)


def is_raw_huggingface(directory: Path) -> bool:
    """Whether a directory is a Hugging Face model with its own ids, not one that a run has mapped already."""
    from edgetext.distill.vocabulary import VOCABULARY_FILE
    from edgetext.models.huggingface import is_huggingface

    return is_huggingface(directory) and not (directory / VOCABULARY_FILE).is_file()


def _by_text(config: DistillConfig, model: Path) -> Given:
    """A Hugging Face teacher that hands over text."""
    if len(config.teachers) > 1:
        raise ConfigError(
            f"recipe {config.recipe.name!r} takes the text of one Hugging Face teacher; give one --teacher"
        )
    if config.finetune_steps and config.corpus.source == "-":
        raise ConfigError(_READ_TWICE)
    return Given(foreign=model)


def _shared(config: DistillConfig, models: list[Path]) -> Given:
    """Share a Hugging Face tokenizer, restricted to what the corpus needs or --vocab-size allows."""
    from edgetext.distill.vocabulary import share_vocabulary

    maps: dict[str, VocabularyMap] = {}
    data = b""
    for model in models:
        data, maps[str(model)] = share_vocabulary(model, _train_texts(config), config.vocab_size)
    return Given(data, maps)


def _restricted(config: DistillConfig, models: list[Path], tokenizer: bytes) -> Given:
    """Cut an own tokenizer down to --vocab-size, if that is smaller."""
    from edgetext.distill.vocabulary import VOCABULARY_FILE, restrict_tokenizer, token_counts

    if config.vocab_size is None or config.vocab_size >= Tokenizer.from_json(tokenizer).vocab_size:
        return Given(tokenizer)
    if any((model / VOCABULARY_FILE).is_file() for model in models):
        raise ConfigError("--vocab-size cannot cut a vocabulary that was cut before; leave it out")
    counts = token_counts(tokenizer, _train_texts(config))
    data, mapped = restrict_tokenizer(tokenizer, config.vocab_size, counts)
    return Given(data, {str(model): mapped for model in models})


def _train_texts(config: DistillConfig) -> Iterator[str]:
    """The texts of the training split."""
    if config.corpus.source == "-":
        raise ConfigError(_READ_TWICE)
    for split, text in labelled_documents(config.corpus):
        if split == "train":
            yield text


def check_context(shape: ModelConfig, flag: str, config: DistillConfig) -> None:
    """A Transformer must see whole training windows and whole evaluation windows. Raises ConfigError."""
    needed = max(WINDOW, config.sequence_length)
    if shape.kind == "transformer" and shape.context < needed:
        raise ConfigError(
            f"{flag} has context={shape.context}, but windows of {needed} tokens are read; add "
            f"context={needed} to the shape, or lower --sequence-length (evaluation always needs {WINDOW})"
        )
