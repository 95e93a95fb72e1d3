"""The machine itself, measured beside the bundles: how fast it reads, and its pace.

``python -m edgetext_bench.roofline`` is a process that answers in the same rounds as the bundles: read
bandwidth for as many bytes as a bundle's token needs (small models live in caches, which are several times
as fast as memory), and the *pace*, the time of a fixed piece of work, by which records of one machine can
be compared although its speed drifts. OpenBLAS's threads do the reading, as many as
``OPENBLAS_NUM_THREADS`` says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

READ_S = 0.02
"""How long each way of reading is tried."""
_WIDTH = 1024
_ONE_CALL = 8 << 20
"""Bytes a thread reads in one call, so that taking turns with Python's lock costs nothing."""
_PACE_SAMPLES = 60
_PACE_PRODUCTS = 32


def read_bandwidth(size: int, threads: int) -> float:
    """Bytes per second at which about ``size`` bytes are read again and again.

    The best of three ways counts, since bandwidth is an upper bound: a matrix times a vector (OpenBLAS's
    threads), a maximum over the bytes, and such a maximum over a share of them in each of ``threads``
    threads. Of each the best of 20 ms.
    """
    matrix = np.ones((max(1, size // (4 * _WIDTH)), _WIDTH), np.float32)
    vector = np.ones(_WIDTH, np.float32)
    octets = matrix.view(np.uint8).ravel()
    share = max(1, len(octets) // threads)
    again = max(1, _ONE_CALL // share)
    views = [as_strided(octets[n * share :], (again, share), (0, 1)) for n in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def together() -> None:
            list(pool.map(lambda view: np.maximum.reduce(view, axis=1), views))

        rates = [
            _best_rate(lambda: matrix @ vector, matrix.nbytes),
            _best_rate(octets.max, matrix.nbytes),
            _best_rate(together, again * share * threads),
        ]
    return max(rates)


def _best_rate(way: Callable[[], object], size: int) -> float:
    calls = max(1, (1 << 20) // size)
    best, began = 0.0, perf_counter()
    while best == 0 or perf_counter() - began < READ_S:
        start = perf_counter()
        for _ in range(calls):
            way()
        best = max(best, calls * size / (perf_counter() - start))
    return best


def pace() -> list[int]:
    """Nanoseconds of a fixed piece of work: 32 products with a matrix of 1 MB, each called from Python."""
    matrix: NDArray[np.float32] = np.ones((512, 512), np.float32)
    vector: NDArray[np.float32] = np.ones(512, np.float32)
    samples = []
    for _ in range(_PACE_SAMPLES):
        begin = perf_counter_ns()
        for _ in range(_PACE_PRODUCTS):
            matrix @ vector
        samples.append(perf_counter_ns() - begin)
    return samples


def main() -> None:
    """Answer requests on standard input, one JSON line each; the first line is the job."""
    threads = json.loads(sys.stdin.readline())["threads"]
    _answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _answer({"pace_ns": pace(), "read_bps": [read_bandwidth(size, threads) for size in request["sizes"]]})


def _answer(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
