"""Where to measure: what ``--on`` names.

here                       this machine
limited:cores=1,mem=256M   this machine with less of it (:mod:`edgetext_bench.limits`)
cuda                       the GPU, and the CPU beside it
ssh://user@host            another machine with Python, numpy and onnxruntime (:mod:`edgetext_bench.remote`)
adb://serial               a phone with such a Python
emulated:aarch64           another instruction set: tokens and instructions, no times
modelled                   this machine, then estimates for classes of devices
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgetext_bench.record import Record, Settings
from edgetext_runtime.errors import InputError

KNOWN = "here, limited:cores=1,mem=256M, cuda, ssh://user@host, adb://serial, emulated:aarch64, modelled"


def bench_on(
    on: str,
    paths: Sequence[str | Path],
    settings: Settings | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    command: str | None = None,
) -> Record:
    """Measure bundles where ``on`` says; arguments and errors else as for :func:`measure.bench`.

    Raises:
        DependencyError: if what reaches the target is missing: ssh, adb, qemu.
        InputError: if ``on`` is not a target.
        EdgetextError: if the target cannot be reached, lacks something, or breaks off.
    """
    from edgetext_bench.measure import bench

    settings = settings or Settings()
    files = [Path(path) for path in paths]
    kind, _, rest = on.partition(":")
    match kind:
        case "here" if not rest:
            return bench(files, settings, progress=progress, command=command)
        case "limited":
            from edgetext_bench.limits import Limits

            limits = Limits.parse(rest)
            return bench(files, settings, limits=limits, progress=progress, command=command, on=on)
        case "cuda" if not rest:
            settings = replace(settings, providers=("cuda", *settings.providers))
            return bench(files, settings, progress=progress, command=command, on=on)
        case "ssh" | "adb":
            from edgetext_bench.remote import bench_remote, transport

            return bench_remote(transport(on), files, settings, progress=progress, command=command)
        case "emulated":
            from edgetext_bench.emulated_bench import bench_emulated

            return bench_emulated(on, files, settings, progress=progress, command=command)
        case "modelled" if not rest:
            from edgetext_bench.modelled import bench_modelled

            return bench_modelled(files, settings, progress=progress, command=command)
    raise InputError(f"on is {on!r}; allowed are {KNOWN}")


def without_host(on: str) -> str:
    """The target as a record may name it: no user, host, serial number or path."""
    kind, marker, _ = on.partition("://")
    return f"{kind}{marker}…" if marker else on
