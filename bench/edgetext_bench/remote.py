"""Measuring on another machine: one zipapp goes there, runs in its Python, and a record comes back."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import IO, cast
from uuid import uuid4

import edgetext_runtime.errors
from edgetext_bench.measure import describe_bundles
from edgetext_bench.record import Record, Settings
from edgetext_bench.transport import Transport, transport
from edgetext_bench.zipapp import build_zipapp
from edgetext_runtime.errors import DependencyError, EdgetextError

__all__ = ["bench_remote", "transport"]

_NOT_FOUND = (126, 127)
"""What a shell exits with where a command is missing or cannot be run."""
_PROBE = """
import json, platform, sys
facts = {"version": list(sys.version_info[:2]), "machine": platform.machine(), "missing": {}}
for name in sys.argv[1:]:
    try:
        __import__(name)
    except Exception as error:
        facts["missing"][name] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""
_OLDEST = (3, 11)


def bench_remote(
    target: Transport,
    paths: Sequence[Path],
    settings: Settings,
    *,
    progress: Callable[[str], None] | None = None,
    command: str | None = None,
) -> Record:
    """Measure bundles on another machine; its name and its user's are not in the record.

    Raises:
        BundleError: if a path is not a bundle.
        DependencyError: if the machine has no Python of 3.11 or later, no numpy, or no onnxruntime.
        EdgetextError: if it cannot be reached, or the connection breaks off; there is no record then.
    """
    say = progress or (lambda _: None)
    describe_bundles(paths)  # what is no bundle need not travel
    say(f"look at {target.name}")
    _check_machine(target, settings)
    remote = f"{target.folder}/edgetext-bench-{uuid4().hex[:12]}.pyz"
    job = {"settings": asdict(settings), "command": command or "edgetext bench", "on": target.kind}
    with tempfile.TemporaryDirectory(prefix="edgetext-bench-") as folder:
        local = build_zipapp(Path(folder) / "bench.pyz", paths, job)
        say(f"send {local.stat().st_size / 1e6:.1f} MB")
        target.send(local, remote)
    try:
        return _run(target, [target.python, remote], say)
    finally:
        _call(target, ["rm", "-f", remote])


def _check_machine(target: Transport, settings: Settings) -> None:
    wanted = ["numpy", *(["onnxruntime"] if set(settings.providers) - {"numpy"} else [])]
    done = _call(target, [target.python, "-c", _PROBE, *wanted])
    if done.returncode in _NOT_FOUND:
        raise DependencyError(
            f"{target.name} has no Python at {target.python!r} ({done.stderr.strip()[-200:]}): install one, "
            f"or name it with {target.kind}://…?python=PATH"
        )
    if done.returncode:
        code = done.returncode - 128 if done.returncode > 128 else done.returncode
        raise DependencyError(
            f"{target.name}: importing {' and '.join(wanted)} there ended with {code} (4: illegal "
            f"instruction, a wheel for another processor): {done.stderr.strip()[-300:]}"
        )
    try:
        facts = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise EdgetextError(f"{target.name}: {target.python} answers {done.stdout[-200:]!r}") from error
    if tuple(facts["version"]) < _OLDEST:
        version = ".".join(map(str, facts["version"]))
        raise DependencyError(
            f"{target.name} has Python {version}, edgetext-runtime needs 3.11: name another with "
            f"{target.kind}://…?python=PATH"
        )
    for name, reason in facts["missing"].items():
        without = " (or measure the numpy backend: --provider numpy)" if name == "onnxruntime" else ""
        raise DependencyError(
            f"{target.name} ({facts['machine']}) cannot import {name} ({reason}): there, "
            f"{target.python} -m pip install {name}{without}"
        )


def _call(target: Transport, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        target.command(words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if words[0] != "rm" and (error := target.failure(done.returncode, done.stderr)) is not None:
        raise error
    return done


def _run(target: Transport, words: Sequence[str], say: Callable[[str], None]) -> Record:
    """Run the zipapp, its progress line by line; return what it answers."""
    lines: list[str] = []
    with subprocess.Popen(
        target.command(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        source, errors = cast(IO[str], process.stdout), cast(IO[str], process.stderr)
        reader = Thread(target=_forward, args=(errors, lines, say))
        reader.start()
        answer = source.read()
        reader.join()
    stderr = "\n".join(lines)
    try:
        content = json.loads(answer.splitlines()[-1])
    except (ValueError, IndexError):
        after = f" after {lines[-1]!r}" if lines else ""
        raise target.failure(process.returncode, stderr) or EdgetextError(
            f"{target.name}: the measurement broke off{after} (exit code {process.returncode}); "
            "there is no record"
        ) from None
    if "error" in content:
        kind = getattr(edgetext_runtime.errors, content["error"], EdgetextError)
        raise kind(f"{target.name}: {content['message']}")
    return Record.from_json(answer.splitlines()[-1])


def _forward(stream: IO[str], lines: list[str], say: Callable[[str], None]) -> None:
    for line in stream:
        lines.append(line.rstrip("\n"))
        say(lines[-1])
