"""The process in which one runtime is measured: ``python -m edgetext_bench.peers.worker``.

The first line of input names the system, its prepared model, threads and sampling; every further line asks
for a round of tokens. Threads are limited by the environment too, before any runtime is imported.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any


def main() -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    job = json.loads(sys.stdin.readline())
    try:
        decode = _open(job)
        decode(8, 0)
        _answer(answers, {"ready": True})
        for line in sys.stdin:
            request = json.loads(line)
            begin = perf_counter()
            written = decode(request["tokens"], request["seed"])
            _answer(answers, {"seconds": perf_counter() - begin, "written": written})
    except Exception as error:  # noqa: BLE001 - whatever a foreign runtime raises is the answer
        _answer(answers, {"error": f"{type(error).__name__}: {error}"})


def _open(job: dict[str, Any]) -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(job["threads"])
    from edgetext_bench.peers.systems import PEERS, Sampling, bundle_system

    systems = {system.name: system for system in PEERS}
    system = systems.get(job["system"]) or bundle_system(job["system"])
    return system.open(Path(job["path"]), job["threads"], Sampling(**job["sampling"]))


def _answer(file: Any, content: dict[str, Any]) -> None:
    file.write(json.dumps(content) + "\n")
    file.flush()


if __name__ == "__main__":
    main()
