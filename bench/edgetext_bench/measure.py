"""Measures bundles: a fresh process for every bundle, thread count and round, all taking turns.

Turns matter: a machine that slows down half-way slows everyone, so that ratios hold although absolutes
drift. Fresh processes matter too: where its memory lies makes a process a few per cent faster or slower for
all its life, and an interval over rounds of one process would not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgetext_bench.environment import read_environment
from edgetext_bench.limits import Limits
from edgetext_bench.process import PROBE, WORKER, MeasuringProcess
from edgetext_bench.record import BundleInfo, Record, Round, Run, Settings, Start, Sustained, build
from edgetext_bench.work import cache_bytes_per_token, work_per_token
from edgetext_runtime.bundle import read_bundle
from edgetext_runtime.errors import InputError
from edgetext_runtime.manifest import parse_json_object

Progress = Callable[[str], None]
_SPLIT_STEPS = 200


def bench(
    paths: Sequence[str | Path],
    settings: Settings | None = None,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    command: str | None = None,
    on: str = "here",
) -> Record:
    """Measure bundles on this machine.

    Args:
        paths: bundles (.etx files or unpacked folders); give the fp32 one as well to see what int8 is worth.
        settings: how to measure; default: ``Settings()``.
        limits: what the measured processes may use; default: everything.
        progress: called with a line of text at every stage.
        command: what to note as the way the record was made; default: a call of this function.
        on: what to note as the kind of machine.

    Raises:
        BundleError: a path is not a bundle.
        InputError: no paths, or the same bundle twice.
        EdgetextError: a measuring process failed; the message has its last words.
    """
    settings = settings or Settings()
    say = progress or (lambda _: None)
    files = [Path(path) for path in paths]
    bundles = describe_bundles(files)
    environment = read_environment()
    cases = [
        _Case(number, path, threads, provider, settings)
        for provider in settings.providers
        for threads in (settings.threads if provider != "cuda" else (1,))
        for number, path in enumerate(files)
    ]
    with ExitStack() as stack:
        probes = {
            threads: stack.enter_context(closing(_probe(threads, limits)))
            for threads in sorted({case.threads for case in cases})
        }
        for repeat in range(settings.repeats):
            say(f"round {repeat + 1}/{settings.repeats}")
            _one_round(_in_turn(cases, repeat), settings, repeat, limits, probes)
    for case in cases:
        say(f"{case.path.name}, {case.provider}, threads {case.threads}: where a step's time goes")
        _finish(case, settings, limits)
    return Record(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command or f"edgetext_bench.bench({[path.name for path in files]}, {settings})",
        settings=settings,
        environment=environment,
        bundles=bundles,
        runs=tuple(_run(case, settings) for case in cases),
        label="measured" if limits is None else "limited",
        on=on,
    )


def describe_bundles(files: Sequence[Path]) -> tuple[BundleInfo, ...]:
    """Read what bundles say about themselves.

    Raises:
        BundleError: a path is not a bundle.
        InputError: no paths, or the same bundle twice.
    """
    if not files:
        raise InputError("paths: no bundle given; make one with `edgetext export`")
    bundles = tuple(describe_bundle(path) for path in files)
    if len({bundle.sha256 for bundle in bundles}) != len(bundles):
        raise InputError("paths: the same bundle is given twice; give each once")
    return bundles


def describe_bundle(path: Path) -> BundleInfo:
    """Read what a bundle says about itself.

    Raises:
        BundleError: it is not a bundle.
    """
    bundle = read_bundle(path)
    manifest = bundle.manifest
    files = path.iterdir() if path.is_dir() else [path]
    return BundleInfo(
        file=path.name,
        name=manifest.name,
        architecture=manifest.architecture,
        precision=manifest.precision,
        recipe=str(manifest.quantisation["recipe"]),
        parameters=manifest.parameters,
        vocab_size=manifest.vocab_size,
        context_length=manifest.context_length,
        bytes=sum(file.stat().st_size for file in files),
        sha256=bundle.sha256,
        quality=parse_json_object(bundle.members["quality.json"], "quality.json"),
    )


@dataclass
class _Case:
    """One bundle at one thread count, while it is being measured."""

    bundle: int
    path: Path
    threads: int
    provider: str
    settings: Settings
    starts: list[Start] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Of the last process: prompts, session, depths and batches; of all: the most memory."""
    weight_bytes: int = 0
    cache_bytes: int = 0

    def __post_init__(self) -> None:
        bundle = read_bundle(self.path)
        manifest = bundle.manifest
        self.weight_bytes = work_per_token(bundle.members["model.onnx"], manifest.vocab_size).weight_bytes
        self.cache_bytes = cache_bytes_per_token(manifest)

    @property
    def working_set(self) -> int:
        """Bytes that a token reads, on average over a round."""
        return self.weight_bytes + self.cache_bytes * self.settings.tokens // 2

    def start(self, limits: Limits | None) -> MeasuringProcess:
        """A process that has given its first token."""
        settings = self.settings
        job = {
            "path": str(self.path.resolve()),
            "threads": self.threads,
            "provider": self.provider,
            "prompt": settings.prompt,
            "prompt_lengths": settings.prompt_lengths,
            "sampling": {
                "temperature": settings.temperature,
                "top_k": settings.top_k,
                "top_p": settings.top_p,
                "min_p": 0.0,
            },
        }
        cores = first_cores(self.threads) if settings.pin else None
        return MeasuringProcess(WORKER, job, self.path.name, limits, cores)


def first_cores(count: int) -> tuple[int, ...]:
    """The first logical processors this process may run on.

    Raises:
        InputError: if there are fewer, or this system cannot pin.
    """
    import os

    if not hasattr(os, "sched_getaffinity"):
        raise InputError("pin needs Linux; leave out --pin")
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise InputError(f"pin: {count} threads, but {len(cores)} usable processors; lower --threads")
    return tuple(cores[:count])


def _probe(threads: int, limits: Limits | None) -> MeasuringProcess:
    return MeasuringProcess(PROBE, {"threads": threads}, "probe", limits)


def _one_round(
    cases: Sequence[_Case],
    settings: Settings,
    repeat: int,
    limits: Limits | None,
    probes: dict[int, MeasuringProcess],
) -> None:
    """Start all in turn, then measure all in turn, the machine itself before each."""
    with ExitStack() as stack:
        started = []
        for case in cases:
            process = stack.enter_context(closing(case.start(limits)))
            described = process.ask("describe")
            case.starts.append(
                Start(process.first_answer_s, described.pop("load_s"), process.ask("reload")["reload_s"])
            )
            case.facts |= described
            started.append((case, process))
        for case, process in started:
            warm = process.ask(
                "settle",
                tokens=settings.tokens,
                seed=settings.seed + repeat,
                most=settings.warmup_rounds,
                tolerance=settings.warmup_tolerance,
            )
            machine = probes[case.threads].ask("measure", sizes=[case.working_set])
            seed = settings.seed + repeat
            samples = process.ask("round", tokens=settings.tokens, seed=seed)
            for name, value in process.ask("memory").items():  # before batches, which need more
                case.facts[name] = _most(case.facts.get(name), value)
            sweep = process.ask("sweep", depths=settings.depths, batches=settings.batches, seed=seed)
            case.facts |= {name: sweep.pop(name) for name in ("depths", "batches")}
            (read_bps,) = machine.pop("read_bps")
            more = {"read_bps": read_bps, "warmup_rounds": warm["rounds"], "converged": warm["converged"]}
            case.rounds.append(build(Round, {**samples, **sweep, **machine, **more}))


def _most(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def _finish(case: _Case, settings: Settings, limits: Limits | None) -> None:
    """What needs a process of its own at the end: the profile and the sustained window."""
    with closing(case.start(limits)) as process:
        if settings.sustained_s:
            window = process.ask("sustain", seconds=settings.sustained_s, seed=settings.seed)
            case.facts["sustained"] = build(Sustained, window)
        case.facts |= process.ask("split", steps=_SPLIT_STEPS)


def _in_turn(cases: Sequence[_Case], repeat: int) -> list[_Case]:
    """Return all cases, beginning with another one each time, so that none always follows the same one."""
    start = repeat % len(cases)
    return [*cases[start:], *cases[:start]]


def _run(case: _Case, settings: Settings) -> Run:
    document = {
        "bundle": case.bundle,
        "threads": case.threads,
        "provider": case.provider,
        "weight_bytes": case.weight_bytes,
        "cache_bytes": case.cache_bytes,
        "starts": tuple(case.starts),
        "rounds": tuple(case.rounds),
        "sustained": None,
    }
    return build(Run, {**document, **case.facts})
