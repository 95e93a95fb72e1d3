"""Fewer cores, less time, less memory than this machine has: ``--on limited:cores=1,cpu=0.5,mem=256M``.

Cores are an affinity mask; a share of processor time and memory are control groups (version 1 or 2), which
the user must be allowed to make. A machine so limited still has this processor's kernels, caches and
bandwidth: it is not another device, and its records say ``limited``.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from edgetext_runtime.errors import EdgetextError, InputError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_PERIOD_US = 100_000
_ROOT = Path("/sys/fs/cgroup")
EXAMPLE = "--on limited:cores=1,cpu=0.5,mem=256M"


@dataclass(frozen=True)
class Limits:
    """What a measured process may use; None is as much as there is."""

    cores: int | None = None
    """Logical processors, by affinity."""
    cpus: float | None = None
    """Processors' worth of time in every tenth of a second."""
    memory_bytes: int | None = None
    """Memory, page cache of its files included; swap is not allowed in its place."""

    @classmethod
    def parse(cls, text: str) -> Limits:
        """Read ``cores=1,cpu=0.5,mem=256M``.

        Raises:
            InputError: naming the word that is wrong and what is allowed.
        """
        found: dict[str, int | float] = {}
        for word in text.split(","):
            name, _, value = word.partition("=")
            size = re.fullmatch(r"(\d+)([KMG]?)", value)
            if name == "cores" and value.isdigit() and 1 <= int(value) <= len(_usable()):
                found["cores"] = int(value)
            elif name == "cpu" and re.fullmatch(r"\d*\.?\d+", value) and float(value) >= 0.01:
                found["cpus"] = float(value)
            elif name == "mem" and size and int(size[1]):
                found["memory_bytes"] = int(size[1]) * _UNITS[size[2]]
            else:
                raise InputError(
                    f"on: {word!r} is no limit here; allowed are cores=1 to {len(_usable())}, cpu=0.5 "
                    f"(processors' worth of time), mem=256M ({EXAMPLE})"
                )
        return cls(**found)  # type: ignore[arg-type]

    def apply(self, pid: int) -> LimitedProcess:
        """Limit a process that is running; close what is returned once it has ended.

        Raises:
            EdgetextError: if this user may not make control groups.
        """
        group = LimitedProcess()
        try:
            if self.cores is not None:
                os.sched_setaffinity(pid, _usable()[: self.cores])
            if self.memory_bytes is not None:
                group.enter(pid, "memory", self._memory_files())
            if self.cpus is not None:
                quota = max(1000, int(self.cpus * _PERIOD_US))
                group.enter(pid, "cpu", [{"cpu.max": f"{quota} {_PERIOD_US}"}, {"cpu.cfs_quota_us": quota}])
        except BaseException:
            group.close()
            raise
        return group

    def _memory_files(self) -> list[dict[str, str | int | None]]:
        """What to write in a group of version 2, and of version 1; swap where the kernel counts it."""
        size = self.memory_bytes
        return [
            {"memory.max": size, "memory.swap.max?": 0},
            {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes?": size},
        ]


class LimitedProcess:
    """The control groups of one process."""

    def __init__(self) -> None:
        self._folders: list[Path] = []

    def enter(self, pid: int, controller: str, versions: list[dict[str, str | int | None]]) -> None:
        """Make a group with a controller, write its limits, and put a process into it."""
        folder, values = _group(controller, versions)
        try:
            folder.mkdir()
            self._folders.append(folder)
            for name, value in values.items():
                with ExitStack() as stack:
                    if name.endswith("?"):
                        stack.enter_context(suppress(OSError))
                    (folder / name.rstrip("?")).write_text(str(value), encoding="ascii")
            (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")
        except OSError as error:
            raise EdgetextError(
                f"cannot limit {controller} here ({error.strerror}: control groups need root, or a delegated "
                "group: systemd-run --user --scope -p Delegate=yes edgetext bench …); cores= needs neither"
            ) from error

    def close(self) -> None:
        """Remove the groups; the process must have ended."""
        for folder in self._folders:
            for _ in range(50):  # the kernel takes a moment to see that it is empty
                with suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.01)
        self._folders.clear()


def _group(
    controller: str, versions: list[dict[str, str | int | None]]
) -> tuple[Path, dict[str, str | int | None]]:
    """A folder for a new group below this process's own, and the version's values."""
    own: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, names, path = line.split(":", 2)
            own |= dict.fromkeys(names.split(","), path.lstrip("/"))
    name = f"edgetext-{uuid4().hex[:8]}"
    first = _ROOT / controller  # version 1 mounts every controller by itself
    if first.is_dir():
        above = first / own.get(controller, "")
        return (above if above.is_dir() else first) / name, versions[1]
    return _ROOT / own.get("", "") / name, versions[0]


def _usable() -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        raise EdgetextError("limits need Linux: affinity and control groups")
    return sorted(os.sched_getaffinity(0))
