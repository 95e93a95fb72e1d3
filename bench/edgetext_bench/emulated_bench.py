"""Bundles on another instruction set: do they load, are the tokens the golden ones, how many instructions.

``--on emulated:aarch64``. Each bundle is replayed on processors with and without the dot-product
instructions, because kernels differ there. Counts are differences of whole programs: one that writes more
tokens less one that writes fewer.

``python -m edgetext_bench.emulated_bench --there MODEL.etx TOKENS`` is what runs over there.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgetext_bench.emulated import TARGETS, Emulated
from edgetext_bench.environment import read_environment
from edgetext_bench.instructions import counting_emulator
from edgetext_bench.measure import describe_bundles
from edgetext_bench.record import Emulation, Record, Settings

PROCESSORS = ("max", "cortex-a76", "cortex-a72")
"""Everything qemu knows; a Raspberry Pi 5's, with dot products; a Raspberry Pi 4's, without."""
_FEW, _MANY = 1, 41


def bench_emulated(
    on: str,
    paths: Sequence[Path],
    settings: Settings,
    *,
    progress: Callable[[str], None] | None = None,
    command: str | None = None,
    root: Path | None = None,
    processors: Sequence[str] = PROCESSORS,
) -> Record:
    """Replay golden tokens and count instructions under emulation; there are no times in the record.

    Args:
        on: a name of :data:`emulated.TARGETS`.
        paths: bundles.
        settings: kept in the record; sampling is the bundles' own.
        progress: called with a line of text at every stage.
        command: what to note as the way the record was made.
        root: where the emulated system is kept; default: the user's cache.
        processors: qemu's names of those to be emulated.

    Raises:
        BundleError: if a path is not a bundle.
        DependencyError: if the emulated system cannot be made.
        InputError: if ``on`` is not known.
    """
    say = progress or (lambda _: None)
    bundles = describe_bundles(paths)
    system = Emulated.open(on, root)
    counting = counting_emulator(TARGETS[on][1], system.root)
    found = []
    for number, path in enumerate(paths):
        for cpu in processors:
            say(f"{path.name} on {cpu}")
            found.append(_emulation(system, number, path, cpu, counting))
    return Record(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command or f"edgetext bench --on {on}",
        settings=settings,
        environment=read_environment(),
        bundles=bundles,
        runs=(),
        label="emulated",
        on=on,
        emulations=tuple(found),
    )


def _emulation(
    system: Emulated, number: int, path: Path, cpu: str, counting: tuple[Path, Path] | None
) -> Emulation:
    answer = _there(system, path, cpu, 0)
    few = many = None
    if counting is not None:
        few, many = (_count(system, path, cpu, tokens, counting) for tokens in (_FEW, _MANY))
    per_token = None if few is None or many is None else (many - few) / (_MANY - _FEW)
    return Emulation(
        bundle=number,
        cpu=cpu,
        provider=answer["provider"],
        golden_cases=answer["cases"],
        golden_failed=tuple(answer["failed"]),
        instructions_load=few,
        instructions_per_token=per_token,
        versions={**answer["versions"], **system.describe()},
    )


def _there(
    system: Emulated, path: Path, cpu: str, tokens: int, emulator: Sequence[str] = ()
) -> dict[str, Any]:
    words = ["-m", "edgetext_bench.emulated_bench", "--there", str(tokens)]
    return json.loads(system.python(words, [path], cpu=cpu, emulator=emulator))


def _count(system: Emulated, path: Path, cpu: str, tokens: int, counting: tuple[Path, Path]) -> int | None:
    emulator, plugin = counting
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "count"
        _there(system, path, cpu, tokens, [str(emulator), "-plugin", f"{plugin},to={target}"])
        return int(target.read_text(encoding="ascii")) if target.exists() else None


def there(tokens: int, path: str) -> dict[str, Any]:
    """Load a bundle; replay its golden tokens, or with ``tokens`` write so many."""
    from edgetext_runtime import Generator, SamplingParams

    generator = Generator.load(path, threads=1)
    failed: list[int] = []
    if tokens:
        session, greedy = generator.session, SamplingParams(temperature=0)
        state, token = session.new_state(), generator.manifest.eos_id
        for _ in range(tokens):
            token = session.step(token, state, greedy, 0.0)
    else:
        failed = [generator.golden.index(case) for case in generator.verify()]
    versions = {name: version(name) for name in ("numpy", "onnxruntime")}
    versions = {"machine": platform.machine(), "Python": platform.python_version(), **versions}
    return {
        "provider": generator.session.provider,
        "cases": len(generator.golden),
        "failed": failed,
        "versions": versions,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(there(int(sys.argv[2]), sys.argv[3])) + "\n")
