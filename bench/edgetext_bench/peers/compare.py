"""Bundles and their peers, decoding in turns: one process per system and thread count, all in one run.

A round is one call that writes a number of tokens after a prompt of four, sampling and prompt included; the
figure is wall time over tokens written. Systems take turns, so that ratios hold where the machine drifts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import IO, Any, cast

from edgetext_bench.environment import read_environment
from edgetext_bench.peers.systems import PEERS, Sampling, System, bundle_system, require
from edgetext_runtime.errors import EdgetextError, InputError

_PACKAGES = ("onnxruntime", "onnxruntime-genai", "llama-cpp-python", "ctranslate2", "transformers", "torch")


@dataclass(frozen=True)
class PeerRun:
    """One system at one thread count."""

    system: str
    threads: int
    us_per_token: tuple[float, ...]
    """Of every round: wall time of the call over the tokens it wrote."""
    failed: str = ""
    """Why there are no figures."""

    @property
    def median_us(self) -> float:
        """Median over the rounds."""
        return median(self.us_per_token)


@dataclass(frozen=True)
class PeerRecord:
    """A comparison: what was measured, where and how."""

    created: str
    command: str
    model: str
    """Name of the Hugging Face directory."""
    environment: dict[str, Any]
    versions: dict[str, str]
    sampling: Sampling
    tokens: int
    runs: tuple[PeerRun, ...]

    def to_json(self) -> str:
        """The record with all samples."""
        return json.dumps({"how": "measured", **asdict(self)}, indent=1)


def compare_peers(
    bundles: Sequence[Path],
    directory: Path,
    *,
    threads: Sequence[int] = (1, 2),
    tokens: int = 200,
    repeats: int = 5,
    sampling: Sampling | None = None,
    peers: Sequence[System] = PEERS,
    command: str = "",
    progress: Callable[[str], object] = lambda line: None,
) -> PeerRecord:
    """Measure bundles beside the model they were made from, in every peer that is asked for.

    Raises:
        DependencyError: if a peer is not installed.
        EdgetextError: if a model cannot be converted for a peer.
        InputError: if the directory is not a model, or no bundle is given.
    """
    if not bundles:
        raise InputError("no bundle given: make one with `edgetext export` from the same directory")
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory} is not a Hugging Face model directory (it has no config.json)")
    for peer in peers:
        require(peer.package)
    settings = sampling or Sampling(0.8, 40, 0.95)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetext-peers-")))
        systems = [(bundle_system(path.name), path) for path in bundles]
        for peer in peers:
            progress(f"convert for {peer.name}")
            systems.append((peer, peer.prepare(directory, folder)))
        cases = []
        for count in threads:
            for system, path in systems:
                progress(f"load {system.name}, threads {count}")
                job = {"system": system.name, "path": str(path.resolve()), "threads": count}
                case = _Case(system.name, count, job | {"sampling": asdict(settings)})
                cases.append(stack.enter_context(closing(case)))
        for repeat in range(repeats + 1):
            progress(f"round {repeat}/{repeats}" if repeat else "warm-up")
            for case in cases:
                case.round(tokens, repeat)
        runs = tuple(PeerRun(c.system, c.threads, tuple(c.samples[1:]), c.failed) for c in cases)
    return PeerRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        model=directory.resolve().name,
        environment=asdict(read_environment()),
        versions=_versions(),
        sampling=settings,
        tokens=tokens,
        runs=runs,
    )


def peer_table(record: PeerRecord) -> str:
    """The medians, and how many times longer than the first bundle each takes, as a Markdown table."""
    counts = sorted({run.threads for run in record.runs})
    by_case = {(run.system, run.threads): run for run in record.runs}
    names = list(dict.fromkeys(run.system for run in record.runs))
    heads = [f"{count} {'thread' if count == 1 else 'threads'}, µs per token" for count in counts]
    lines = [f"| system | {' | '.join(heads)} |", "|---|" + "--:|" * len(counts)]
    for name in names:
        cells = []
        for count in counts:
            run, first = by_case[name, count], by_case[names[0], count]
            if run.failed or first.failed:
                cells.append("failed" if run.failed else f"{run.median_us:,.0f}")
            else:
                cells.append(f"{run.median_us:,.0f} ({run.median_us / first.median_us:.2f}×)")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    reasons = dict.fromkeys(f"- {run.system} failed: {run.failed}" for run in record.runs if run.failed)
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


class _Case:
    """A process that has one system loaded and waits to be asked."""

    def __init__(self, system: str, threads: int, job: dict[str, Any]) -> None:
        self.system, self.threads, self.failed = system, threads, ""
        self.samples: list[float] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgetext_bench.peers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._ask(job)

    def round(self, tokens: int, seed: int) -> None:
        """Have it write tokens once; a system that has failed stays out."""
        if not self.failed and (answer := self._ask({"tokens": tokens, "seed": seed})):
            self.samples.append(answer["seconds"] / max(1, answer["written"]) * 1e6)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, content: dict[str, Any]) -> dict[str, Any]:
        source, target = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            source.write(json.dumps(content) + "\n")
            source.flush()
            answer: dict[str, Any] = json.loads(target.readline() or '{"error": "the process ended"}')
        except (BrokenPipeError, ValueError) as error:
            raise EdgetextError(f"{self.system}: the measuring process broke off ({error})") from error
        self.failed = answer.get("error", "")
        return {} if self.failed else answer


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
