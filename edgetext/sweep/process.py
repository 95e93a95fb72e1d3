"""What a sweep needs of the system: locks that outlive it, requests to stop, shares of the cores."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def shared_environment(slots: int) -> dict[str, str]:
    """Return the environment of `slots` commands at a time: they share the cores, unless told otherwise."""
    environment = dict(os.environ)
    if slots > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // slots)))
    return environment


def try_lock(path: Path) -> tuple[bool, int | None]:
    """Try to lock a job: (whether it may be worked on, the lock to pass on and to close).

    The lock belongs to the open file, which the command inherits. Where the system has no such locks, there
    is none to hold.
    """
    try:
        import fcntl
    except ImportError:
        return True, None
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False, None
    return True, descriptor


def release(lock: int | None) -> None:
    """Give a lock of `try_lock` back."""
    if lock is not None:
        os.close(lock)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of dying of them."""
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    def note(number: int, frame: FrameType | None) -> None:
        requests.append(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
