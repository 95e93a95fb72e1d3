"""What a measurement gives (``Record``): plain data, kept as JSON.

A record holds the raw samples, so that any statistic can be computed again, and says how they were got.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar

from edgetext_bench.environment import Environment
from edgetext_bench.settings import Settings
from edgetext_runtime.errors import InputError

__all__ = ["BundleInfo", "Emulation", "Estimate", "Record", "Round", "Run", "Settings", "Start", "Sustained"]

FORMAT_VERSION = 2
LABELS = ("measured", "limited", "emulated", "modelled")
"""How figures are got: on this hardware; on it, with less of it; on another instruction set under emulation
(tokens and instruction counts, no times); from bytes and operations over stated rates (a bound with an
interval)."""

_Data = TypeVar("_Data")


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

    ttft_s: tuple[tuple[float, ...], ...]
    """Call of ``Generator.stream`` → first piece of text, for every prompt of ``Run.prompts``."""
    stream_ns: tuple[int, ...]
    """Time between successive pieces of ``Generator.stream``; text, UTF-8 and stop handling included."""
    stream_tokens: int
    """Tokens generated in ``stream_decode_s``."""
    stream_decode_s: float
    """Time from the first piece to the end, over all generations of the round."""
    step_ns: tuple[int, ...]
    """Time per token of the session alone: forward pass and sampling, ids in and out."""
    tokenise_ns: tuple[int, ...] = ()
    """Time to encode the longest prompt."""
    depth_ns: tuple[tuple[int, ...], ...] = ()
    """Time of steps after so many tokens, for every depth of ``Run.depths``."""
    batch_ns: tuple[tuple[int, ...], ...] = ()
    """Time of steps of so many sequences at once, for every batch of ``Run.batches``."""
    pace_ns: tuple[int, ...] = ()
    """Time of a fixed piece of work that has nothing to do with the bundle (:func:`roofline.pace`)."""
    read_bps: float | None = None
    """Bytes per second at which this machine reads as many bytes as a token of this bundle needs."""
    warmup_rounds: int = 0
    """Stretches of steps until two in a row agreed; every round has a process of its own."""
    converged: bool = True
    """Whether the last two of them agreed."""


@dataclass(frozen=True)
class Sustained:
    """Decoding without a pause; lists have one entry for every second."""

    end_s: tuple[float, ...]
    """End of the window, from the start."""
    tokens: tuple[int, ...]
    """Steps in it."""
    p50_ns: tuple[float, ...]
    """Median time of a step."""
    temperature_c: tuple[float | None, ...]
    """Hottest sensor at its end."""
    mhz: tuple[float | None, ...]
    """Mean clock of the processors at its end."""
    throttle_events: int | None
    """How often processors slowed down for heat meanwhile; None where the system does not count."""
    joules: float | None
    """Energy of package or board meanwhile; None where it cannot be read."""
    energy_source: str | None
    """Where the energy was read."""


@dataclass(frozen=True)
class Run:
    """One bundle at one thread count."""

    bundle: int
    """Index in ``Record.bundles``."""
    threads: int
    """Threads inside an operator."""
    prompts: tuple[int, ...]
    """Tokens of every prompt, the given one first."""
    peak_rss_bytes: int | None
    """Highest resident memory of a process that loads the bundle and writes single texts."""
    starts: tuple[Start, ...]
    """Fresh processes, one per repeat."""
    rounds: tuple[Round, ...]
    """Rounds, one per repeat and process; round i of all runs lies close together in time."""
    provider: str = "cpu"
    """Where it ran, by the name given."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """What it ran with: full name of the provider, threads, spinning, onnxruntime's build; the GPU's name."""
    pss_bytes: int | None = None
    """Resident memory at the end, shared pages counted by their share."""
    weight_bytes: int | None = None
    """Bytes of weights that a token reads."""
    cache_bytes: int = 0
    """Bytes of KV cache that a token adds, and each later one reads."""
    depths: tuple[int, ...] = ()
    """Tokens before the steps of ``Round.depth_ns``."""
    batches: tuple[int, ...] = ()
    """Sequences of the steps of ``Round.batch_ns``."""
    bare_ns: tuple[int, ...] = ()
    """Time of the bare graph per step, on buffers bound once."""
    forward_ns: tuple[int, ...] = ()
    """The same of the graph without the operators that sample, in turns with it."""
    sustained: Sustained | None = None
    """The sustained window, if asked for."""

    @property
    def converged(self) -> bool:
        """Whether every process had settled before it was measured."""
        return all(r.converged for r in self.rounds)


@dataclass(frozen=True)
class Emulation:
    """One bundle on another instruction set under emulation: what it gives, and no time."""

    bundle: int
    """Index in ``Record.bundles``."""
    cpu: str
    """The emulated processor, by the emulator's name."""
    provider: str
    """What ran the graph."""
    golden_cases: int
    """Golden cases replayed."""
    golden_failed: tuple[int, ...]
    """Those that gave other tokens."""
    instructions_load: int | None
    """Guest instructions until the first token, interpreter and imports included; None where not counted."""
    instructions_per_token: float | None
    """Guest instructions per further token."""
    versions: Mapping[str, str]
    """What ran there: machine, Python, numpy, onnxruntime, emulator."""


@dataclass(frozen=True)
class Estimate:
    """One bundle on a class of devices, by the model of :mod:`edgetext_bench.modelled`."""

    bundle: int
    """Index in ``Record.bundles``."""
    device: str
    """Name of the class."""
    threads: int
    """Threads inside an operator."""
    us_per_token: float
    """Time per token of the session alone."""
    low: float
    """The interval's lower end."""
    high: float
    """The interval's upper end."""
    measured_us: float | None = None
    """What was measured, where the device is this machine."""


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
    """How ``runs`` were got: one of ``LABELS``. Emulations and estimates carry their own name."""
    on: str = "here"
    """The kind of target, without the names of hosts: ``here``, ``limited:…``, ``ssh``, ``adb``,
    ``emulated:…``."""
    emulations: tuple[Emulation, ...] = ()
    """What other instruction sets gave under emulation."""
    estimates: tuple[Estimate, ...] = ()
    """What other devices are expected to take."""
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
        if version not in (1, FORMAT_VERSION):
            raise InputError(
                f"bench record of format {version}, this reads 1 and {FORMAT_VERSION}: "
                "pip install -U edgetext"
            )
        try:
            if version == 1:
                document = upgraded(document)
            return cls(
                created=document["created"],
                command=document["command"],
                settings=build(Settings, document["settings"]),
                environment=build(Environment, document["environment"]),
                bundles=tuple(build(BundleInfo, entry) for entry in document["bundles"]),
                runs=tuple(_run(entry) for entry in document["runs"]),
                label=document["label"],
                on=document["on"],
                emulations=tuple(build(Emulation, entry) for entry in document["emulations"]),
                estimates=tuple(build(Estimate, entry) for entry in document["estimates"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"bench record is damaged: {error!r}; measure again") from error


def _run(document: Mapping[str, Any]) -> Run:
    starts = tuple(build(Start, entry) for entry in document["starts"])
    rounds = tuple(build(Round, entry) for entry in document["rounds"])
    window = document["sustained"] and build(Sustained, document["sustained"])
    return build(Run, {**document, "starts": starts, "rounds": rounds, "sustained": window})


def upgraded(document: Mapping[str, Any]) -> dict[str, Any]:
    """A record of format 1 as one of format 2: what it did not measure is None or empty."""
    unknown: dict[str, Any] = {"memory_limit_bytes": None, "caches": {}, "temperature_c": None}
    settings = dict(document["settings"])
    settings["prompt_lengths"] = [settings.pop("long_prompt_tokens")]
    none = {"depths": [], "batches": [], "sustained_s": 0.0, "providers": ["cpu"], "pin": False}
    blank = {f.name: f.default for f in fields(Run) if f.default is not MISSING} | {"session": {}}
    return {
        **document,
        "settings": {**settings, **none},
        "environment": {**document["environment"], **unknown},
        "runs": [{**blank, **_upgraded_run(run)} for run in document["runs"]],
        "on": "here",
        "emulations": [],
        "estimates": [],
    }


def _upgraded_run(document: Mapping[str, Any]) -> dict[str, Any]:
    run = dict(document)
    warm = {name: run.pop(name) for name in ("warmup_rounds", "converged")}
    blank = {f.name: f.default for f in fields(Round) if f.default is not MISSING}
    run["prompts"] = [run.pop("short_prompt_tokens"), run.pop("long_prompt_tokens")]
    rounds = [dict(entry) for entry in run["rounds"]]
    for entry in rounds:
        entry["ttft_s"] = [entry.pop("ttft_short_s"), entry.pop("ttft_long_s")]
    return {**run, "rounds": [{**blank, **entry, **warm} for entry in rounds]}


def build(kind: type[_Data], document: Mapping[str, Any]) -> _Data:
    """Make a dataclass of a JSON object that has exactly its fields; lists become tuples."""
    expected = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(document) != expected:
        raise KeyError(f"{kind.__name__}: {sorted(set(document) ^ expected)}")
    return kind(**{name: _tuples(value) for name, value in document.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
