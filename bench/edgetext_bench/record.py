"""What a measurement is asked for (``Settings``) and what it gives (``Record``): plain data, kept as JSON.

A record holds the raw samples, so that any statistic can be computed again, and says how they were got.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from edgetext_bench.environment import Environment
from edgetext_runtime.errors import InputError
from edgetext_runtime.sampling import SamplingParams
from edgetext_runtime.session import MOST_THREADS

FORMAT_VERSION = 1
FEWEST_SAMPLES = 100
"""A 99th percentile of fewer latencies than this is the maximum by another name."""

_Data = TypeVar("_Data")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Raises:
        InputError: naming the setting, its value and what is allowed.
    """

    threads: tuple[int, ...] = (1, 2)
    """Thread counts, each measured on its own; more than there are cores is allowed, and noted."""
    tokens: int = 200
    """Tokens to decode per round."""
    repeats: int = 5
    """Rounds; and fresh processes for the start-up times."""
    prompt: str = "Once upon a time"
    """The short prompt; the long one is made of its repetitions."""
    long_prompt_tokens: int = 64
    """Most tokens of the long prompt, if the short one is shorter; at most half of the context."""
    temperature: float = 0.8
    """Sampling temperature."""
    top_k: int = 40
    """Sampling among the k likeliest tokens; 0 is all."""
    top_p: float = 0.95
    """Sampling among the likeliest tokens that together reach this probability."""
    seed: int = 0
    """Seed of the first generation."""
    warmup_rounds: int = 6
    """Most rounds to warm up; it ends earlier once two rounds agree within ``warmup_tolerance``."""
    warmup_tolerance: float = 0.05
    """Relative difference of the median token latency of two rounds that counts as settled."""

    def __post_init__(self) -> None:
        """Check every setting."""
        counts = [*self.threads, self.tokens, self.repeats, self.long_prompt_tokens, self.warmup_rounds]
        if any(isinstance(count, bool) or not isinstance(count, int) for count in counts):
            raise InputError(f"threads, tokens, repeats and other counts must be integers, got {counts}")
        if not self.threads or not all(1 <= count <= MOST_THREADS for count in self.threads):
            given = ",".join(map(str, self.threads))
            raise InputError(
                f"threads is {given!r}; allowed are counts from 1 to {MOST_THREADS} (--threads 1,2)"
            )
        if len(set(self.threads)) != len(self.threads):
            raise InputError(f"threads names a count twice: {self.threads}; give each once (--threads 1,2)")
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats}; allowed is 1 or more (--repeats 5)")
        if self.tokens < 2 or self.tokens * self.repeats < FEWEST_SAMPLES:
            raise InputError(
                f"tokens is {self.tokens} and repeats is {self.repeats}: a 99th percentile needs at least "
                f"{FEWEST_SAMPLES} tokens in all; raise --tokens or --repeats"
            )
        if self.long_prompt_tokens < 1 or self.warmup_rounds < 1:
            raise InputError("long_prompt_tokens and warmup_rounds must be 1 or more")
        SamplingParams(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass(frozen=True)
class BundleInfo:
    """A bundle that was measured."""

    file: str
    """File name, without its folder."""
    name: str
    """The model's name, from the manifest."""
    architecture: str
    """``lstm``, ``gru`` or ``transformer``."""
    precision: str
    """``int8`` or ``fp32``."""
    recipe: str
    """Quantisation recipe."""
    parameters: int
    """Number of parameters."""
    vocab_size: int
    """V."""
    context_length: int | None
    """Most tokens the model can see; None is unlimited."""
    bytes: int
    """Size on disk."""
    sha256: str
    """Names the exact bundle."""
    quality: Mapping[str, Any]
    """The bundle's quality record: perplexity, flip rate and the text they were measured on."""


@dataclass(frozen=True)
class Start:
    """One fresh process."""

    first_token_s: float
    """Start of the process → first token received by the parent, interpreter and imports included."""
    load_s: float
    """``Generator.load`` in the fresh process: import of ONNX Runtime included."""
    reload_s: float
    """``Generator.load`` once more: reading, checking and session only."""


@dataclass(frozen=True)
class Round:
    """One round of decoding in a warm process; all times as read, nothing removed."""

    ttft_short_s: tuple[float, ...]
    """Call of ``Generator.stream`` → first piece of text, short prompt."""
    ttft_long_s: tuple[float, ...]
    """The same, long prompt."""
    stream_ns: tuple[int, ...]
    """Time between successive pieces of ``Generator.stream``; text, UTF-8 and stop handling included."""
    stream_tokens: int
    """Tokens generated in ``stream_decode_s``."""
    stream_decode_s: float
    """Time from the first piece to the end, over all generations of the round."""
    step_ns: tuple[int, ...]
    """Time per token of the session alone: forward pass and sampling, ids in and out."""


@dataclass(frozen=True)
class Run:
    """One bundle at one thread count."""

    bundle: int
    """Index in ``Record.bundles``."""
    threads: int
    """Threads inside an operator."""
    short_prompt_tokens: int
    """Tokens of the short prompt."""
    long_prompt_tokens: int
    """Tokens of the long prompt."""
    warmup_rounds: int
    """Rounds it took to settle."""
    converged: bool
    """Whether the last two of them agreed."""
    peak_rss_bytes: int | None
    """Highest resident memory of a process that loads the bundle and runs all rounds."""
    starts: tuple[Start, ...]
    """Fresh processes, one per repeat."""
    rounds: tuple[Round, ...]
    """Rounds, one per repeat; round i of all runs lies close together in time."""


@dataclass(frozen=True)
class Record:
    """A measurement with everything needed to read it later."""

    created: str
    """Date and time, UTC, ISO 8601."""
    command: str
    """What was run."""
    settings: Settings
    """How it was measured."""
    environment: Environment
    """What it was measured on."""
    bundles: tuple[BundleInfo, ...]
    """What was measured."""
    runs: tuple[Run, ...]
    """The samples."""
    label: str = "measured"
    """How the numbers were got: on this hardware, with nothing limited, emulated or modelled."""
    format_version: int = FORMAT_VERSION
    """Version of this layout."""

    def to_json(self) -> str:
        """Return the record as JSON, with a summary beside the samples for those who only read."""
        from edgetext_bench.summary import summary

        return json.dumps({**asdict(self), "summary": summary(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Read a record; the summary is not read, it can be computed again.

        Raises:
            InputError: it is not a record, or one of a newer format.
        """
        try:
            document = json.loads(text)
            version = document["format_version"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"not a bench record: {error!r}; make one with `edgetext bench … -o`") from error
        if version != FORMAT_VERSION:
            raise InputError(
                f"bench record of format {version}, this reads {FORMAT_VERSION}: pip install -U edgetext"
            )
        try:
            return cls(
                created=document["created"],
                command=document["command"],
                settings=build(Settings, document["settings"]),
                environment=build(Environment, document["environment"]),
                bundles=tuple(build(BundleInfo, entry) for entry in document["bundles"]),
                runs=tuple(_run(entry) for entry in document["runs"]),
                label=document["label"],
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"bench record is damaged: {error!r}; measure again") from error


def _run(document: Mapping[str, Any]) -> Run:
    starts = tuple(build(Start, entry) for entry in document["starts"])
    rounds = tuple(build(Round, entry) for entry in document["rounds"])
    return build(Run, {**document, "starts": starts, "rounds": rounds})


def build(kind: type[_Data], document: Mapping[str, Any]) -> _Data:
    """Make a dataclass of a JSON object that has exactly its fields; lists become tuples."""
    expected = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(document) != expected:
        raise KeyError(f"{kind.__name__}: {sorted(set(document) ^ expected)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in document.items()})
