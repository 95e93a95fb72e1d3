"""A corpus made ready for training: tokenizer, token streams and the record of where they came from."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from edgetext.corpus.builtin import LICENCE
from edgetext.corpus.config import CorpusConfig
from edgetext.corpus.labels import LabelledText
from edgetext.corpus.sources import source_kind
from edgetext.corpus.split import SPLITS, Split, labelled_documents
from edgetext.corpus.streams import TokenWriter
from edgetext.errors import CorpusError
from edgetext.models.config import MOST_LABELS
from edgetext.tokenization import TokenizerKind, check_tokenizer_options, split_long, train_tokenizer
from edgetext_runtime.tokenizer import Tokenizer

__all__ = ["CorpusRecord", "Progress", "SplitRecord", "load_record", "prepare_corpus"]

Progress = Callable[[str, int, int | None], None]
"""Called with the phase ("tokenizer", then "tokens"), documents done, and how many there are, if known."""

_REPORT_EVERY = 256  # documents
_FEWEST_TOKENS = {"train": 64, "valid": 16, "test": 16}
_TEMPORARY = ".corpus-"


@dataclass(frozen=True)
class SplitRecord:
    """One part of a corpus.

    Attributes:
        documents: number of documents.
        characters: their Unicode code points.
        tokens: length of the stream, boundaries included.
        unknown: how many of the tokens are ``<unk>``.
    """

    documents: int
    characters: int
    tokens: int
    unknown: int = 0


@dataclass(frozen=True)
class CorpusRecord:
    """What `corpus.json` says: where a corpus came from and what became of it.

    Attributes:
        source: as given on the command line.
        sha256: over all documents in order, each as its length (8 bytes, little endian) and its UTF-8.
        unit: "line", "paragraph", "document" or, of rows left whole, "row".
        documents: number of documents.
        characters: their Unicode code points.
        licence: SPDX identifier, or "unspecified" for a text of the user's.
        splits: by name, "train", "valid" and "test".
        config: the resolved `CorpusConfig`.
        tokenizer: kind, vocab_size, the vocab_size asked for, and the sha256 of tokenizer.json.
        python: the version whose documentation was read; only of the builtin corpus.
        labels: documents of every label, by name in order; only with a label column.
    """

    source: str
    sha256: str
    unit: str
    documents: int
    characters: int
    licence: str
    splits: dict[str, SplitRecord]
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    python: str | None = None
    labels: dict[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns what is written to `corpus.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CorpusRecord:
        """Reads what `to_dict` returned.

        Raises:
            CorpusError: if entries are missing or unknown.
        """
        try:
            splits = {name: SplitRecord(**split) for name, split in data["splits"].items()}
            return cls(**{**data, "splits": splits})
        except (KeyError, TypeError, AttributeError) as error:
            raise CorpusError(
                f"corpus.json is not a corpus record ({error}); prepare the corpus again"
            ) from None


@dataclass
class _Census:
    """What one pass over the corpus has seen; it is filled while the documents go by."""

    documents: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    digest: Any = field(default_factory=hashlib.sha256)
    labels: Counter[tuple[Split, str]] = field(default_factory=Counter)

    def count(
        self, documents: Iterable[tuple[Split, str]], config: CorpusConfig
    ) -> Iterator[tuple[Split, str]]:
        for split, text in documents:
            if isinstance(text, LabelledText):
                self.labels[split, text.label] += 1
                self.digest.update(text.label.encode() + b"\0")
            elif config.label_column is not None:
                raise CorpusError(
                    f"{config.source} has a text without a label ({text[:40]!r}): the only document, or "
                    f"plain text; leave out --label-column"
                )
            data = text.encode()
            self.digest.update(len(data).to_bytes(8, "little") + data)
            self.documents[split] += 1
            self.characters[split] += len(text)
            yield split, text


def prepare_corpus(
    config: CorpusConfig,
    tokenizer_kind: TokenizerKind,
    vocab_size: int,
    out_dir: Path,
    *,
    min_frequency: int | None = None,
    tokenizer: bytes | None = None,
    progress: Progress | None = None,
) -> CorpusRecord:
    """Trains the tokenizer on the train split; writes tokenizer.json, data/*.npy and corpus.json.

    The source is read twice and never held in memory (standard input is kept in a temporary file meanwhile).
    The same source and options give the same bytes. The files appear only when all are complete, corpus.json
    last.

    Args:
        config: the source, its unit and its split.
        tokenizer_kind: "bpe", "word" or "char".
        vocab_size: largest number of tokens.
        out_dir: the run directory; made if needed.
        min_frequency: see `train_tokenizer`.
        tokenizer: an existing tokenizer.json (of a teacher) to use instead of training one; then the kind,
            the size and the frequency are not used.
        progress: called now and then.

    Raises:
        ConfigError: if there can be no such tokenizer.
        CorpusError: if the source cannot be read, holds no text, or is too small to split.
        TokenizerError: if ``tokenizer`` is not a tokenizer of ours.
    """
    if tokenizer is None:
        check_tokenizer_options(tokenizer_kind, vocab_size)
    kind = source_kind(config)
    out_dir.mkdir(parents=True, exist_ok=True)
    for left in out_dir.glob(f"{_TEMPORARY}*"):  # of a run that was killed
        shutil.rmtree(left)
    report = progress or (lambda phase, done, total: None)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=out_dir) as name:
        work = Path(name)
        stdin = _spool(work / "stdin") if kind == "stdin" else None
        first = _Census()
        texts = _train_texts(first, config, stdin, report)
        if tokenizer is None:
            data = train_tokenizer(texts, tokenizer_kind, vocab_size, min_frequency)
        else:
            data = tokenizer
            for _ in texts:  # the first pass counts, and finds what is wrong before anything is written
                pass
        (work / "tokenizer.json").write_bytes(data)
        (work / "data").mkdir()
        second = _Census()
        names = _label_names(first)
        splits = _write_streams(
            second, config, stdin, data, work / "data", sum(first.documents.values()), report, names
        )
        if first.digest.digest() != second.digest.digest():
            raise CorpusError(f"{config.source} changed while it was being read; run the command again")
        _check_tokens(config, splits)
        record = _record(config, kind, first, splits, data, vocab_size if tokenizer is None else None)
        text = json.dumps(record.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (work / "corpus.json").write_text(text, encoding="utf-8")
        _publish(work, out_dir)
    return record


def load_record(out_dir: Path) -> CorpusRecord | None:
    """Returns the record of a prepared corpus, or None if ``out_dir`` does not hold a complete one.

    Raises:
        CorpusError: if corpus.json is damaged.
    """
    path = out_dir / "corpus.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorpusError(f"{path} is not valid JSON ({error}); prepare the corpus again") from None
    return CorpusRecord.from_dict(data)


def _spool(path: Path) -> Path:
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return path


def _documents(census: _Census, config: CorpusConfig, stdin: Path | None) -> Iterator[tuple[Split, str]]:
    return census.count(labelled_documents(config, stdin), config)


def _train_texts(
    census: _Census, config: CorpusConfig, stdin: Path | None, report: Progress
) -> Iterator[str]:
    """Yields the train split; at its end the census is complete and has been checked."""
    for number, (split, text) in enumerate(_documents(census, config, stdin)):
        if number % _REPORT_EVERY == 0:
            report("tokenizer", number, None)
        if split == "train":
            yield text
    total = sum(census.documents.values())
    report("tokenizer", total, total)
    _check_documents(config, census)
    _check_labels(config, census)


def _check_documents(config: CorpusConfig, census: _Census) -> None:
    counts = census.documents
    total = sum(counts.values())
    if total == 0:
        raise CorpusError(f"{config.source} holds no text, only blanks")
    if all(counts[split] for split in SPLITS):
        return
    found = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    if total < len(SPLITS):
        found = f"{total} and no line to cut at" if total == 1 else found
    needed = ceil(5 / min(config.valid_fraction, config.test_fraction))
    raise CorpusError(
        f"{config.source} is too small to split: documents found: {found}; each split needs at least one, "
        f"which takes about {needed} documents. Cut it finer with --unit line or --unit paragraph, raise "
        "--valid-fraction and --test-fraction, or give more text"
    )


def _label_names(census: _Census) -> list[str]:
    """All labels in order; none without a label column."""
    return sorted({label for _, label in census.labels})


def _check_labels(config: CorpusConfig, census: _Census) -> None:
    """Refuse labels that a generator cannot learn."""
    names = _label_names(census)
    if config.label_column is None:
        return
    if not 2 <= len(names) <= MOST_LABELS:
        raise CorpusError(
            f"{config.source}: column {config.label_column!r} holds {len(names):,} different labels; a label "
            f"column has 2 to {MOST_LABELS} (--label-column)"
        )
    if unseen := [name for name in names if not census.labels["train", name]]:
        raise CorpusError(
            f"{config.source}: no training document has the label {', '.join(unseen)}; give more text of it, "
            f"or another --split-seed"
        )


def _check_tokens(config: CorpusConfig, splits: dict[str, SplitRecord]) -> None:
    for name, fewest in _FEWEST_TOKENS.items():
        if splits[name].tokens < fewest:
            found = ", ".join(f"{split} {splits[split].tokens}" for split in SPLITS)
            raise CorpusError(
                f"{config.source} is too small to split: tokens found: {found}; {name} needs at least "
                f"{fewest}. Raise --valid-fraction and --test-fraction, or give more text"
            )


def _write_streams(
    census: _Census,
    config: CorpusConfig,
    stdin: Path | None,
    tokenizer: bytes,
    folder: Path,
    total: int,
    report: Progress,
    labels: Sequence[str],
) -> dict[str, SplitRecord]:
    """Encodes every document into the stream of its split, and numbers its label."""
    coder = Tokenizer.from_json(tokenizer)
    numbers = {name: number for number, name in enumerate(labels)}
    own: dict[str, list[int]] = {split: [] for split in SPLITS}
    unknown: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(TokenWriter(folder / f"{split}.npy", coder.vocab_size, coder.eos_id))
            for split in SPLITS
        }
        for number, (split, text) in enumerate(_documents(census, config, stdin)):
            if number % _REPORT_EVERY == 0:
                report("tokens", number, total)
            for piece in split_long(text):
                ids = coder.encode(piece)
                writers[split].write(ids)
                if coder.unk_id is not None:
                    unknown[split] += ids.count(coder.unk_id)
            writers[split].end_document()
            if isinstance(text, LabelledText):
                own[split].append(numbers.get(text.label, 0))
        report("tokens", total, total)
    if labels:
        import numpy as np

        for split in SPLITS:
            np.save(folder / f"{split}.labels.npy", np.array(own[split], np.uint16))
    return {
        split: SplitRecord(
            documents=census.documents[split],
            characters=census.characters[split],
            tokens=writers[split].tokens,
            unknown=unknown[split],
        )
        for split in SPLITS
    }


def _record(
    config: CorpusConfig,
    kind: str,
    census: _Census,
    splits: dict[str, SplitRecord],
    tokenizer: bytes,
    requested: int | None,
) -> CorpusRecord:
    coder = Tokenizer.from_json(tokenizer)
    default_unit = {"stdin": "line", ".txt": "line", ".txt.gz": "line", "builtin": "document"}.get(
        kind, "row"
    )
    return CorpusRecord(
        source=config.source,
        sha256=census.digest.hexdigest(),
        unit=config.unit or default_unit,
        documents=sum(census.documents.values()),
        characters=sum(census.characters.values()),
        licence=LICENCE if kind == "builtin" else "unspecified",
        splits=splits,
        config=asdict(config),
        tokenizer={
            "kind": coder.kind,
            "vocab_size": coder.vocab_size,
            "requested_vocab_size": requested,
            "sha256": hashlib.sha256(tokenizer).hexdigest(),
        },
        python=platform.python_version() if kind == "builtin" else None,
        labels={name: sum(census.labels[split, name] for split in SPLITS) for name in _label_names(census)}
        or None,
    )


def _publish(work: Path, out_dir: Path) -> None:
    """Moves the finished files into place; while corpus.json is absent the directory counts as unprepared."""
    (out_dir / "corpus.json").unlink(missing_ok=True)
    (out_dir / "data").mkdir(exist_ok=True)
    for path in (work / "data").iterdir():
        path.replace(out_dir / "data" / path.name)
    (work / "tokenizer.json").replace(out_dir / "tokenizer.json")
    (work / "corpus.json").replace(out_dir / "corpus.json")
