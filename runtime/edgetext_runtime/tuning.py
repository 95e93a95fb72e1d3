"""``threads="auto"``: how many threads a model gets here, measured once and remembered.

One thread, without measuring, for

- models of less than 4 MiB, whose operators are too short to be shared out (and whose start must stay quick);
- processes whose CPU quota (a container's) is below the number of cores: threads would be throttled;
- machines with one core.

Else one thread and all cores (at most 8), with and without busy waiting, are timed for about 50 ms each, and
more than one thread is taken only if it is a tenth faster. The answer is kept in a small file in the user's
cache directory, where that can be written. ``EDGETEXT_TUNING=off`` turns measuring and remembering off: one
thread for a model of less than 16 MiB, else at most four.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .engine import SMALL_MODEL
from .manifest import Manifest
from .sampling import SamplingParams
from .session import StepSession

VARIABLE = "EDGETEXT_TUNING"
_MODEL_FOR_THREADS = 16 << 20
_LARGE_MODEL = 256 << 20
"""A model of more bytes is not loaded three times to compare."""
_MOST_THREADS = 8
_MOST_UNTUNED = 4
_MEASURE_S = 0.05
_TUNING_S = 0.2
_GAIN = 0.9
_GREEDY = SamplingParams(temperature=0)


def tuned_session(model: bytes, manifest: Manifest, sha256: str) -> StepSession:
    """A session on the CPU with the number of threads that suits model and machine.

    Nothing is remembered where ``sha256``, the bundle's, is empty.
    """
    cores = available_cores()
    if os.environ.get(VARIABLE, "").lower() in ("off", "0", "no", "false"):
        count = 1 if len(model) < _MODEL_FOR_THREADS else min(cores, _MOST_UNTUNED)
        return StepSession(model, manifest, threads=count)
    if len(model) < SMALL_MODEL or cores == 1 or cpu_quota() < cores:
        return StepSession(model, manifest)
    most = min(cores, _MOST_THREADS)
    if len(model) > _LARGE_MODEL:
        return StepSession(model, manifest, threads=min(most, _MOST_UNTUNED))
    path = _cache_file(sha256, cores) if sha256 else None
    if path is not None and (known := _read(path, most)) is not None:
        return StepSession(model, manifest, threads=known[0], spinning=known[1])
    best = _measure_candidates(model, manifest, most)
    if path is not None:
        _write(path, f"{best.threads} {best.spinning:d}")
    return best


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """CPUs' worth of time that the control group may use; infinite where there is no limit.

    Args:
        root: where control groups are mounted.
    """
    with suppress(OSError, ValueError):  # version 2: "quota period", or "max period"
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return float("inf") if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):  # version 1: -1 is no limit
        quota_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return float("inf") if quota_us <= 0 else quota_us / period_us
    return float("inf")


def _measure_candidates(model: bytes, manifest: Manifest, most: int) -> StepSession:
    """The fastest of the candidates, as far as the time allows to try them."""
    began = time.perf_counter()
    best = StepSession(model, manifest)
    taken = _step_s(best)
    for spinning in (True, False):
        if time.perf_counter() - began > _TUNING_S - _MEASURE_S:
            break
        candidate = StepSession(model, manifest, threads=most, spinning=spinning)
        found = _step_s(candidate)
        costs_less = best.threads > 1 and not spinning  # spinning must pay by the same margin
        if found < (taken / _GAIN if costs_less else taken * _GAIN):
            best, taken = candidate, found
    return best


def _step_s(session: StepSession) -> float:
    """Seconds of a single-token step: the median of what fits into the time."""
    state = session.new_state()
    limit, samples, began = session.manifest.context_length, list[float](), time.perf_counter()
    session.step(0, state, _GREEDY, 0.0)  # binds the buffers, starts the threads
    while len(samples) < 3 or time.perf_counter() - began < _MEASURE_S:
        if state.length == limit:
            state = session.new_state()
        start = time.perf_counter()
        session.step(0, state, _GREEDY, 0.0)
        samples.append(time.perf_counter() - start)
    return sorted(samples)[len(samples) // 2]


def cache_directory() -> Path | None:
    """Where this user's caches are kept, or ``None`` where that cannot be told."""
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        folder = os.environ.get(variable, "")
        if folder and Path(folder).is_absolute():
            return Path(folder) / "edgetext"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    caches = home / "Library" / "Caches" if platform.system() == "Darwin" else home / ".cache"
    return caches / "edgetext"


def _cache_file(sha256: str, cores: int) -> Path | None:
    from .backend import load_onnxruntime

    folder = cache_directory()
    version = load_onnxruntime().__version__
    machine = [platform.machine(), platform.node(), _processor(), cores, version, sha256]
    name = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:32]
    return None if folder is None else folder / f"threads-{name}.txt"


def _processor() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        lines: Iterator[str] = (line for line in file if line.startswith(("model name", "CPU part")))
        return next(lines, "").partition(":")[2].strip()
    return platform.processor()


def _read(path: Path, most: int) -> tuple[int, bool] | None:
    """What is remembered, if it can be read and makes sense."""
    with suppress(OSError, ValueError):
        threads, spinning = map(int, path.read_bytes()[:100].split())
        if 1 <= threads <= most and spinning in (0, 1):
            return threads, bool(spinning)
    return None


def _write(path: Path, content: str) -> None:
    """Keep a small file; where that fails, nothing is kept."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(content, encoding="ascii")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
