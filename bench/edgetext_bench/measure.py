"""Measures bundles: one process per bundle and thread count, all taking turns.

Turns matter: a machine that slows down half-way slows everyone, so that ratios hold although absolutes drift.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import IO, Any, cast

import edgetext_runtime.errors
from edgetext_bench.environment import read_environment
from edgetext_bench.record import BundleInfo, Record, Round, Run, Settings, Start, build
from edgetext_runtime.bundle import read_bundle
from edgetext_runtime.errors import EdgetextError, InputError
from edgetext_runtime.manifest import parse_json_object

Progress = Callable[[str], None]


def bench(
    paths: Sequence[str | Path],
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
    command: str | None = None,
) -> Record:
    """Measure bundles on this machine.

    Args:
        paths: bundles (.etx files or unpacked folders); give the fp32 one as well to see what int8 is worth.
        settings: how to measure; default: ``Settings()``.
        progress: called with a line of text at every stage.
        command: what to note as the way the record was made; default: a call of this function.

    Raises:
        BundleError: a path is not a bundle.
        InputError: no paths, or the same bundle twice.
        EdgetextError: a measuring process failed; the message has its last words.
    """
    settings = settings or Settings()
    say = progress or (lambda _: None)
    if not paths:
        raise InputError("paths: no bundle given; make one with `edgetext export`")
    files = [Path(path) for path in paths]
    bundles = tuple(describe_bundle(path) for path in files)
    if len({bundle.sha256 for bundle in bundles}) != len(bundles):
        raise InputError("paths: the same bundle is given twice; give each once")
    environment = read_environment()
    cases = [
        _Case(number, path, threads, _job(path, threads, settings))
        for threads in settings.threads
        for number, path in enumerate(files)
    ]
    for repeat in range(settings.repeats):
        say(f"fresh processes {repeat + 1}/{settings.repeats}")
        for case in _in_turn(cases, repeat):
            case.starts.append(_fresh_start(case.job))
    with ExitStack() as stack:
        for case in cases:
            say(f"warm-up: {case.path.name}, {case.threads} {'thread' if case.threads == 1 else 'threads'}")
            case.process = stack.enter_context(closing(_Process(case.job)))
            case.prompts = case.process.ask("describe")
            _warm_up(case, settings)
        for repeat in range(settings.repeats):
            say(f"round {repeat + 1}/{settings.repeats}")
            for case in _in_turn(cases, repeat):
                seed = settings.seed + repeat * settings.tokens
                case.rounds.append(build(Round, case.process.ask("round", tokens=settings.tokens, seed=seed)))
        runs = tuple(_finished(case) for case in cases)
    return Record(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command or f"edgetext_bench.bench({[path.name for path in files]}, {settings})",
        settings=settings,
        environment=environment,
        bundles=bundles,
        runs=runs,
    )


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


class _Process:
    """A worker process that has given its first token and waits to be asked, one thing at a time."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._name = Path(job["path"]).name
        # Not a pipe: nobody reads while the process works, and a full pipe would block it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        begin = perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgetext_bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )
        self._input, self._output = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            self._send(job)
            self.answer()
        except BaseException:
            self.close()
            raise
        self.first_token_s = perf_counter() - begin
        """Start of the process → its first token."""

    def ask(self, do: str, **parameters: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self._send({"do": do, **parameters})
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for an answer; turn a failure over there into an error here."""
        line = self._output.readline()
        if not line:
            raise EdgetextError(self._last_words())
        content: dict[str, Any] = json.loads(line)
        if "error" in content:
            kind = getattr(edgetext_runtime.errors, content["error"], EdgetextError)
            raise kind(f"{self._name}: {content['message']}")
        return content

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def _send(self, content: dict[str, Any]) -> None:
        try:
            self._input.write(json.dumps(content) + "\n")
            self._input.flush()
        except BrokenPipeError:
            raise EdgetextError(self._last_words()) from None

    def _last_words(self) -> str:
        self._process.wait()
        self._stderr.seek(0)
        stderr = self._stderr.read().decode(errors="replace")
        code = self._process.returncode
        reason = (
            f"signal {-code} (4: illegal instruction, 9: out of memory)" if code < 0 else f"exit code {code}"
        )
        words = "\n".join(stderr.strip().splitlines()[-5:])
        return f"{self._name}: the measuring process ended with {reason}\n{words}".strip()


@dataclass
class _Case:
    """One bundle at one thread count, while it is being measured."""

    bundle: int
    path: Path
    threads: int
    job: dict[str, Any]
    starts: list[Start] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    prompts: dict[str, Any] = field(default_factory=dict)
    warmup_rounds: int = 0
    converged: bool = False
    process: _Process = field(init=False)


def _job(path: Path, threads: int, settings: Settings) -> dict[str, Any]:
    return {
        "path": str(path.resolve()),
        "threads": threads,
        "prompt": settings.prompt,
        "long_prompt_tokens": settings.long_prompt_tokens,
        "sampling": {
            "temperature": settings.temperature,
            "top_k": settings.top_k,
            "top_p": settings.top_p,
            "min_p": 0.0,
        },
    }


def _fresh_start(job: dict[str, Any]) -> Start:
    with closing(_Process(job)) as process:
        load_s = process.ask("describe")["load_s"]
        return Start(process.first_token_s, load_s, process.ask("reload")["reload_s"])


def _warm_up(case: _Case, settings: Settings) -> None:
    """Decode until two rounds in a row agree (caches, clocks and the allocator have settled), or give up."""
    before = None
    for case.warmup_rounds in range(1, settings.warmup_rounds + 1):
        answer = case.process.ask("round", tokens=settings.tokens, seed=settings.seed)
        now = median(answer["step_ns"])
        if before is not None and abs(now - before) <= settings.warmup_tolerance * before:
            case.converged = True
            return
        before = now


def _in_turn(cases: Sequence[_Case], repeat: int) -> list[_Case]:
    """Return all cases, beginning with another one each time, so that none always follows the same one."""
    start = repeat % len(cases)
    return [*cases[start:], *cases[:start]]


def _finished(case: _Case) -> Run:
    return Run(
        bundle=case.bundle,
        threads=case.threads,
        short_prompt_tokens=case.prompts["short_prompt_tokens"],
        long_prompt_tokens=case.prompts["long_prompt_tokens"],
        warmup_rounds=case.warmup_rounds,
        converged=case.converged,
        peak_rss_bytes=case.process.ask("finish")["peak_rss_bytes"],
        starts=tuple(case.starts),
        rounds=tuple(case.rounds),
    )
