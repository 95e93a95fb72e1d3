"""What the numbers were measured on: processor, limits, versions. No host name, no paths, no user.

Every probe reads what the system offers and gives None where it offers nothing (or is not Linux).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
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
    cpuinfo = _text("/proc/cpuinfo") or ""
    onnxruntime = (_version(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    return Environment(
        cpu=_cpu_model(cpuinfo),
        machine=platform.machine(),
        cpu_flags=parse_cpu_flags(cpuinfo),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        cpu_quota=_cpu_quota(),
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        max_mhz=_max_mhz(),
        memory_bytes=_memory_bytes(),
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
    board = _text("/sys/firmware/devicetree/base/model")
    return (named.group(1) if named else board or platform.processor() or "unknown").strip("\0 ")


def _cpu_quota() -> float | None:
    limit = _text("/sys/fs/cgroup/cpu.max")
    if limit is None:  # version 1 of control groups
        limit = " ".join(_text(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    return parse_cgroup_quota(limit)


def _max_mhz() -> float | None:
    kilohertz = _text("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return int(kilohertz) / 1000 if kilohertz and kilohertz.isdigit() else None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
