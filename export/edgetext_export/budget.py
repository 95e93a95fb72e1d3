"""The largest student that fits a budget of bytes and milliseconds: built, exported and timed here.

Shapes stand on a ladder per family (`edgetext_export.ladder`). Size and time grow along it, so the last rung
that fits is found by bisection; what is chosen was measured, and so was what is called too slow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgetext.checkpoint import model_tensors
from edgetext.errors import ConfigError
from edgetext.evaluate.markdown import table
from edgetext.models import KINDS, ModelConfig, build_model
from edgetext.models.presets import PRESETS, resolve_model
from edgetext.tokenization import tokenizer_document
from edgetext_export.bundle import GENERATION, bundle_manifest
from edgetext_export.graph import build_step_graph
from edgetext_export.ladder import Rung, ladders
from edgetext_export.timing import measure_ms
from edgetext_export.writer import write_bundle
from edgetext_runtime.bundle import Bundle
from edgetext_runtime.generator import Generator
from edgetext_runtime.tokenizer import Tokenizer
from edgetext_runtime.tokenizer_format import EOS, PAD, UNK

TOKENIZER_BYTES = 30
"""Bytes per token id that a tokenizer is counted with if it is not given: byte-level BPE of English has 24 to
29, words 14, characters 12."""
RECORD_BYTES = 5_000
"""What quality record, golden cases and card take in a bundle, about."""


@dataclass(frozen=True)
class Trial:
    """One shape that was tried."""

    spec: str
    """As `--student` takes it."""
    label: str
    """The same for people."""
    kind: str
    parameters: int
    bundle_bytes: int
    """Of the int8 bundle; of one that was not built, what its weights and tokenizer take at least."""
    built: bool
    ms_per_token: float | None
    """Median at one thread, sampling and text included; None if its size ruled it out, or nobody asked."""
    outcome: str
    """``fits``, or why not."""

    @property
    def fits(self) -> bool:
        """Whether it is within the budget."""
        return self.outcome == "fits"


@dataclass(frozen=True)
class Choice:
    """The student that a budget allows."""

    spec: str
    """As `--student` takes it."""
    model_config: ModelConfig
    bundle_bytes: int
    ms_per_token: float | None
    """None if there was no budget of time."""
    reason: str
    """One line: what was chosen and what stopped the search."""
    trials: tuple[Trial, ...]
    """Everything that was tried, smallest first."""

    @property
    def table(self) -> str:
        """What was tried and why it stopped there, as a table."""
        return trial_table(self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as plain JSON values."""
        return {
            "spec": self.spec,
            "parameters": self.model_config.parameters(),
            "bundle_bytes": self.bundle_bytes,
            "ms_per_token": self.ms_per_token,
            "reason": self.reason,
            "table": self.table,
            "trials": [asdict(trial) for trial in self.trials],
        }


def choose_student(
    vocab_size: int,
    *,
    budget_mb: float | None = None,
    budget_ms: float | None = None,
    kind: str | None = None,
    presets: Mapping[str, tuple[ModelConfig, str]] = PRESETS,
    tokenizer_json: bytes | None = None,
    context: int = 0,
    tried: Callable[[Trial], object] = lambda trial: None,
) -> Choice:
    """Return the student with the most parameters whose int8 bundle and time per token fit.

    Bundles are built for real, with random weights; time is measured through the runtime on this machine, and
    of shapes only whose size fits.

    Args:
        vocab_size: V.
        budget_mb: most megabytes (10⁶ bytes) of the bundle.
        budget_ms: most milliseconds per token.
        kind: ``lstm``, ``gru`` or ``transformer``; all if None.
        presets: named shapes; those with "student" in their name stand on the ladders.
        tokenizer_json: the tokenizer that goes into the bundle; without it `TOKENIZER_BYTES` per id count.
        context: least context of a Transformer.
        tried: called with every trial as it ends.

    Raises:
        ConfigError: if no budget is given, or not even the smallest shape fits; says what is reachable.
    """
    for flag, budget in (("--budget-mb", budget_mb), ("--budget-ms", budget_ms)):
        if budget is not None and not budget > 0:
            raise ConfigError(f"{flag} is {budget}; it must be positive")
    if budget_mb is None and budget_ms is None:
        raise ConfigError("there is no budget to choose by; give --budget-mb, --budget-ms, or both")
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"model kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    tokenizer = stand_in_tokenizer(vocab_size) if tokenizer_json is None else tokenizer_json
    trials: dict[str, Trial] = {}

    def attempt(rung: Rung) -> bool:
        trials[rung.spec] = _try(rung, tokenizer, budget_mb, budget_ms)
        tried(trials[rung.spec])
        return trials[rung.spec].fits

    best: list[Rung] = []
    for family in KINDS if kind is None else (kind,):
        for rungs in ladders(family, vocab_size, presets, context):
            fitting, refused = -1, len(rungs)
            while refused - fitting > 1:
                middle = (fitting + refused) // 2
                fitting, refused = (middle, refused) if attempt(rungs[middle]) else (fitting, middle)
            best += rungs[fitting : fitting + 1] if fitting >= 0 else []
    ordered = tuple(sorted(trials.values(), key=lambda trial: (trial.kind, trial.parameters)))
    if not best:
        raise ConfigError(_nothing_fits(ordered, budget_mb, budget_ms, tokenizer, vocab_size))
    spec, config = max(best, key=lambda rung: rung.config.parameters())
    found = trials[spec]
    reason = _reason(found, ordered, budget_mb, budget_ms)
    return Choice(spec, config, found.bundle_bytes, found.ms_per_token, reason, ordered)


def trial_table(trials: tuple[Trial, ...]) -> str:
    """Return trials as a table."""
    rows = [
        (
            trial.label,
            f"{trial.parameters:,}",
            f"{'' if trial.built else '≥ '}{trial.bundle_bytes / 1e6:.2f}",
            "–" if trial.ms_per_token is None else f"{trial.ms_per_token:.3f}",
            trial.outcome,
        )
        for trial in trials
    ]
    return table(("student", "parameters", "MB", "ms/token", "outcome"), rows)


def build_bundle(config: ModelConfig, tokenizer_json: bytes) -> tuple[Bundle, int]:
    """Return the int8 bundle of a shape with random weights, and the size of its file in bytes."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config)
    weights = {name: tensor.float().numpy() for name, tensor in model_tensors(model).items()}
    tokenizer = Tokenizer.from_json(tokenizer_json)
    graph = build_step_graph(config, weights, "int8", suppressed=tokenizer.suppressed)
    manifest = bundle_manifest(config, graph, tokenizer, name="budget", provenance={}, licence="not stated")
    settings = asdict(GENERATION.sampling) | {"max_new_tokens": GENERATION.max_new_tokens}
    members = {
        "model.onnx": graph.model,
        "tokenizer.json": tokenizer_json,
        "generation.json": json.dumps(settings).encode(),
        "quality.json": b"{}",
        "golden.json": b'{"cases": []}',
        "CARD.md": b" " * RECORD_BYTES,
    }
    with TemporaryDirectory() as folder:
        size = write_bundle(Path(folder) / "budget.etx", manifest, members).stat().st_size
    return Bundle(manifest, members, ""), size


def stand_in_tokenizer(vocab_size: int) -> bytes:
    """Return a tokenizer.json of made-up words with `TOKENIZER_BYTES` per id, for one that is not known yet.

    Raises ConfigError if the vocabulary has no room for a word.
    """
    if vocab_size < 4:
        raise ConfigError(f"a vocabulary of {vocab_size} ids holds no text; --vocab-size must be at least 4")
    letters = TOKENIZER_BYTES - len(f'"":{vocab_size},')
    words = (_word(number, letters) for number in range(vocab_size - 3))
    vocabulary = {token: index for index, token in enumerate([EOS, PAD, UNK, *words])}
    document = tokenizer_document("word", {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNK})
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _word(number: int, letters: int) -> str:
    """The word of a number: its decimal digits as letters, filled up."""
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:0{letters}d}")


def _try(rung: Rung, tokenizer: bytes, budget_mb: float | None, budget_ms: float | None) -> Trial:
    """Build a shape unless its weights alone are too large, and time it if its size fits."""
    spec, config = rung
    parameters, least = config.parameters(), int(0.95 * config.int8_bytes()) + len(tokenizer)
    limit = float("inf") if budget_mb is None else budget_mb * 1e6

    def trial(size: int, taken: float | None, outcome: str, built: bool = True) -> Trial:
        return Trial(spec, rung.label, config.kind, parameters, size, built, taken, outcome)

    if least > limit:  # 0.95: the graph takes a few per cent more or less than the shape says
        return trial(least, None, "too large", built=False)
    bundle, size = build_bundle(config, tokenizer)
    if size > limit:
        return trial(size, None, "too large")
    if budget_ms is None:
        return trial(size, None, "fits")
    taken = measure_ms(Generator(bundle, threads=1))
    return trial(size, taken, "fits" if taken <= budget_ms else "too slow")


def _reason(found: Trial, trials: tuple[Trial, ...], budget_mb: float | None, budget_ms: float | None) -> str:
    """What was chosen, against which budget, and what the next larger shape fails by."""
    parts = [f"{found.parameters:,} parameters"]
    size, limit = f"int8 bundle {found.bundle_bytes / 1e6:.2f} MB", budget_mb
    parts.append(size if limit is None else f"{size} of {limit:g}")
    if found.ms_per_token is not None:
        parts.append(f"{found.ms_per_token:.3f} ms per token of {budget_ms:g}, measured here at one thread")
    text = f"chose {found.spec}: {', '.join(parts)}"
    larger = [trial for trial in trials if trial.kind == found.kind and trial.parameters > found.parameters]
    larger = [trial for trial in larger if not trial.fits]
    if not larger:
        return f"{text}; it is the largest of its family that is tried"
    following = larger[0]
    figure = f"{'' if following.built else 'at least '}{following.bundle_bytes / 1e6:.2f} MB"
    if following.ms_per_token is not None:
        figure = f"{following.ms_per_token:.3f} ms"
    return f"{text}; the next larger, {following.label}, is {following.outcome} ({figure})"


def _nothing_fits(
    trials: tuple[Trial, ...],
    budget_mb: float | None,
    budget_ms: float | None,
    tokenizer: bytes,
    vocab_size: int,
) -> str:
    """What the smallest shapes reach, and what to change."""
    slow = [trial for trial in trials if trial.ms_per_token is not None]
    if slow:
        fastest = min(slow, key=lambda trial: trial.ms_per_token or 0.0)
        return (
            f"no student takes {budget_ms:g} ms per token or less here: the fastest, {fastest.spec}, takes "
            f"{fastest.ms_per_token:.3f} ms; raise --budget-ms, or lower --vocab-size (now {vocab_size:,})"
        )
    smallest = min(trials, key=lambda trial: trial.bundle_bytes)
    _, size = build_bundle(resolve_model(smallest.spec, vocab_size), tokenizer)
    return (
        f"no student fits {budget_mb:g} MB: the smallest, {smallest.spec}, makes a bundle of "
        f"{size / 1e6:.3f} MB, {len(tokenizer) / 1e6:.3f} of it the tokenizer; raise --budget-mb, or lower "
        f"--vocab-size (now {vocab_size:,})"
    )
