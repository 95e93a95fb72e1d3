"""Many threads on one bundle, and how soon a generation that is cancelled ends.

``python -m edgetext_bench.sharing MODEL.etx --threads 64 --generations 50``: every thread writes its texts on
the same ``Generator``, starting together; all are compared with those written one after the other. Then
streams are cancelled at random moments by another thread, and the steps counted that still ended.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgetext_bench.script import parser, run
from edgetext_runtime import Generator
from edgetext_runtime.options import Options


def share(generator: Generator, *, threads: int, generations: int, tokens: int) -> int:
    """Generate on many threads at once; return how many results are not those of one thread."""
    prompts = ["", "Return the", "class ", "x = ["]

    def options(seed: int) -> Options:
        kinds: list[Options] = [{}, {"temperature": 0.0}, {"repetition_penalty": 1.2}, {"stop": ["a"]}]
        return {**kinds[seed % 4], "seed": seed, "max_new_tokens": tokens}

    def one(seed: int) -> tuple[int, ...]:
        return generator.generate(prompts[seed // 4 % 4], **options(seed)).tokens

    count = threads * generations
    alone = [one(seed) for seed in range(count)]
    barrier = threading.Barrier(threads)

    def many(number: int) -> list[tuple[int, ...]]:
        barrier.wait()
        return [one(seed) for seed in range(number, count, threads)]

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(many, range(threads)))
    return sum(
        tokens != alone[seed]
        for number, results in enumerate(found)
        for seed, tokens in zip(range(number, count, threads), results, strict=True)
    )


def cancel(generator: Generator, *, times: int) -> dict[str, list[float]]:
    """Cancel streams from another thread; return the steps begun after that, and the seconds until the end.

    Steps are counted by a logits processor, which is called once in every step.
    """
    chance, steps, seconds = random.Random(0), list[float](), list[float]()
    for _ in range(times):
        marks: list[float] = []

        def mark(logits: Any, tokens: Any, marks: list[float] = marks) -> None:
            marks.append(time.perf_counter())

        stream = generator.stream(
            "", max_new_tokens=1_000_000, processors=[mark], logit_bias={generator.manifest.eos_id: -1e6},
            context_policy="slide", seed=1,
        )  # fmt: skip
        reader = threading.Thread(target=lambda stream=stream: [None for _ in stream])
        reader.start()
        time.sleep(0.005 + chance.random() / 100)
        stream.cancel()
        cancelled = time.perf_counter()
        reader.join()
        seconds.append(time.perf_counter() - cancelled)
        steps.append(sum(at > cancelled for at in marks))
    return {"steps_after": steps, "seconds_after": seconds}


def _table(record: Mapping[str, Any]) -> str:
    steps, seconds = record["cancel"]["steps_after"], record["cancel"]["seconds_after"]
    return (
        f"{record['threads']} threads × {record['generations']} generations: {record['different']} differ "
        f"from those of one thread.\n"
        f"{len(steps)} streams cancelled: at most {max(steps):.0f} step ended after it, "
        f"{max(seconds) * 1e3:.1f} ms at most until the reader was free."
    )


def main() -> int:
    """The command line."""
    made = parser("edgetext_bench.sharing", __doc__)
    made.add_argument("bundle", type=Path, metavar="MODEL.etx")
    made.add_argument("--threads", type=int, default=64)
    made.add_argument("--generations", type=int, default=50)
    made.add_argument("--tokens", type=int, default=40)
    made.add_argument("--cancel", type=int, default=200, help="streams to cancel")

    def measure(options: Any) -> dict[str, Any]:
        generator = Generator.load(options.bundle)
        different = share(
            generator, threads=options.threads, generations=options.generations, tokens=options.tokens
        )
        counts = {"threads": options.threads, "generations": options.generations, "different": different}
        return {**counts, "cancel": cancel(generator, times=options.cancel)}

    return run(made, measure, _table)


if __name__ == "__main__":
    sys.exit(main())
