"""What the numbers were measured on: processor, limits, versions. No host name, no paths, no user.

Every probe reads what the system offers and gives None where it offers nothing (or is not Linux).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CPU_FLAGS = (
    *(
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
    ),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "neon", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""Instruction sets that decide which kernels run; the many others say nothing about a matrix product."""


@dataclass(frozen=True)
class Environment:
    """The machine and the software of a measurement."""

    cpu: str
    """Processor model, or the board's name where the processor gives none."""
    machine: str
    """Instruction set, such as x86_64 or aarch64."""
    cpu_flags: tuple[str, ...]
    """Those of ``CPU_FLAGS`` that the processor has; empty if unknown."""
    cores: int
    """Logical processors of the machine."""
    usable_cores: int
    """Logical processors this process may run on (affinity)."""
    cpu_quota: float | None
    """Processors' worth of time that a control group allows; None if unlimited or unknown."""
    governor: str | None
    """Frequency governor of the first processor."""
    max_mhz: float | None
    """Highest frequency of the first processor, in MHz."""
    memory_bytes: int | None
    """Physical memory, in bytes."""
    memory_limit_bytes: int | None
    """What a control group allows of it; None if unlimited or unknown."""
    caches: Mapping[str, int]
    """Bytes of the first processor's caches: ``L1d``, ``L2``, ``L3``; empty if unknown."""
    temperature_c: float | None
    """Highest temperature that a sensor gave before the measurement, in °C."""
    load_average: float | None
    """Load of the last minute before the measurement: above about 0.2 something else was running."""
    system: str
    """Operating system and release."""
    python: str
    """Interpreter and version."""
    numpy: str | None
    """Version of numpy."""
    onnxruntime: str | None
    """Version of ONNX Runtime."""
    edgetext_runtime: str | None
    """Version of edgetext-runtime."""


def read_environment() -> Environment:
    """Describe this machine and this interpreter."""
    cpuinfo = read_text("/proc/cpuinfo") or ""
    onnxruntime = (_version(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    return Environment(
        cpu=_cpu_model(cpuinfo),
        machine=platform.machine(),
        cpu_flags=parse_cpu_flags(cpuinfo),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        cpu_quota=_cpu_quota(),
        governor=read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        max_mhz=_max_mhz(),
        memory_bytes=_memory_bytes(),
        memory_limit_bytes=_memory_limit(),
        caches=_caches(),
        temperature_c=temperature_c(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        numpy=_version("numpy"),
        onnxruntime=next((version for version in onnxruntime if version), None),
        edgetext_runtime=_version("edgetext-runtime"),
    )


def usable_cores() -> int:
    """Return how many logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_cpu_flags(cpuinfo: str) -> tuple[str, ...]:
    """Return the known flags in the text of ``/proc/cpuinfo`` ("flags" on x86, "Features" on ARM)."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    words = set(found.group(1).split()) if found else set()
    return tuple(flag for flag in CPU_FLAGS if flag in words)


def parse_cgroup_quota(cpu_max: str) -> float | None:
    """Return the processors allowed by the text of a cgroup's ``cpu.max`` ("200000 100000" is 2)."""
    quota, _, period = cpu_max.partition(" ")
    if not quota.lstrip("-").isdigit() or int(quota) <= 0 or not period.strip().isdigit():
        return None
    return int(quota) / int(period)


def _cpu_model(cpuinfo: str) -> str:
    named = re.search(r"^(?:model name|Model|Hardware|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    board = read_text("/sys/firmware/devicetree/base/model")
    return (named.group(1) if named else board or platform.processor() or "unknown").strip("\0 ")


def _cpu_quota() -> float | None:
    limit = read_text("/sys/fs/cgroup/cpu.max")
    if limit is None:  # version 1 of control groups
        limit = " ".join(
            read_text(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") or "" for name in ("quota", "period")
        )
    return parse_cgroup_quota(limit)


def _max_mhz() -> float | None:
    kilohertz = read_text("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return int(kilohertz) / 1000 if kilohertz and kilohertz.isdigit() else None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _memory_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = read_text(path)
        if limit and limit.isdigit() and int(limit) < (_memory_bytes() or 0):  # version 1 has no "max"
            return int(limit)
    return None


def _caches() -> dict[str, int]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read_text(folder / name) for name in ("level", "type", "size"))
        if level and kind in ("Data", "Unified") and size and size.endswith("K") and size[:-1].isdigit():
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1]) * 1024
    return found


def temperature_c() -> float | None:
    """The highest temperature that any sensor gives now, in °C; None where there is none."""
    texts = [read_text(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in texts if text and text.lstrip("-").isdigit()]
    return max((value for value in degrees if 0 < value < 150), default=None)  # some report nonsense


def frequency_mhz() -> float | None:
    """The mean frequency of the processors now, in MHz; None where it is not known."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    texts = [read_text(path) for path in files]
    kilohertz = [int(text) for text in texts if text and text.isdigit()]
    return sum(kilohertz) / len(kilohertz) / 1000 if kilohertz else None


def throttle_events() -> int | None:
    """How often the processors have slowed down for heat so far (x86's counters, a Raspberry Pi's flags)."""
    counts = [
        int(text)
        for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
        if (text := read_text(path)) and text.isdigit()
    ]
    with suppress(ValueError):
        flags = read_text("/sys/devices/platform/soc/soc:firmware/get_throttled")
        counts += [(int(flags, 16) & 0b1110).bit_count()] if flags else []
    return sum(counts) if counts else None


def read_text(path: str | Path) -> str | None:
    """A small file of the system, stripped; None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
