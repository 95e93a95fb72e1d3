"""The process that is measured: loads one bundle, then does what it is told, one JSON line per request.

``python -m edgetext_bench.worker`` reads a job from its first line of input, loads the bundle, generates the
first token, and answers; then it serves requests until its input ends. A process of its own per bundle and
thread count keeps memory figures clean, and one that waits for a line uses no processor.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # nothing is loaded at first: what importing costs is part of what is measured
    from edgetext_runtime import Generator

PROBES = 3
"""Times to first token per round and prompt."""
_ROOM = 3
"""What a prompt must leave of the context: the start token, one step to settle, one to measure."""


class Worker:
    """One loaded bundle.

    Args:
        job: ``path``, ``threads``, ``provider``, ``prompt``, ``prompt_lengths``, and ``sampling``, as
            keywords of ``Generator.stream``. A conditioned bundle is asked for its first label.
    """

    def __init__(self, job: dict[str, Any]) -> None:

        self.job = job
        begin = perf_counter()
        self.generator: Generator = self._load()
        self.load_s = perf_counter() - begin
        labels = self.generator.manifest.labels
        self.options = job["sampling"] | ({"label": labels[0]} if labels else {})
        for _ in self.generator.stream(job["prompt"], max_new_tokens=1, seed=0, **self.options):
            break
        self.prompts: list[str] = [job["prompt"]]

    def _load(self) -> Generator:
        from edgetext_runtime import Generator

        job = self.job
        return Generator.load(job["path"], threads=job["threads"], provider=job["provider"])

    def describe(self) -> dict[str, Any]:
        """Return what is known after the first token, and make the longer prompts.

        Raises:
            InputError: the prompt fills the model's context.
        """
        from edgetext_bench.sweeps import session_facts
        from edgetext_runtime.errors import InputError

        tokenizer, context = self.generator.tokenizer, self.generator.manifest.context_length
        prompt = self.job["prompt"]
        counts = [len(tokenizer.encode(prompt))]
        if context and counts[0] + _ROOM > context:
            raise InputError(
                f"prompt has {counts[0]} tokens, which leaves nothing to decode in the model's context of "
                f"{context}; shorten it (--prompt)"
            )
        further = max(1, len(tokenizer.encode(f"{prompt} {prompt}")) - counts[0])
        for wanted in self.job["prompt_lengths"]:
            most = min(wanted, (context or sys.maxsize) // 2)
            text = " ".join([prompt] * (1 + max(0, most - counts[0]) // further))
            if (count := len(tokenizer.encode(text))) not in counts:
                self.prompts.append(text)
                counts.append(count)
        return {"load_s": self.load_s, "prompts": counts, "session": session_facts(self.generator)}

    def reload(self) -> dict[str, Any]:
        """Load the bundle once more, now that everything is imported."""
        begin = perf_counter()
        self._load()
        return {"reload_s": perf_counter() - begin}

    def settle(self, tokens: int, seed: int, most: int, tolerance: float) -> dict[str, Any]:
        """Decode until two stretches in a row agree (caches, clocks, allocator have settled), or give up."""
        self._stream(tokens, seed)
        before, rounds, agreed = None, 0, False
        while rounds < most and not agreed:
            now, rounds = median(self._steps(tokens, seed)), rounds + 1
            agreed = before is not None and abs(now - before) <= tolerance * before
            before = now
        return {"rounds": rounds, "converged": agreed}

    def round(self, tokens: int, seed: int) -> dict[str, Any]:
        """Measure first tokens, then a stretch of the stream, then a stretch of the session alone."""
        return {
            "ttft_s": [[self._first_piece(p, seed + i) for i in range(PROBES)] for p in self.prompts],
            "tokenise_ns": [self._encode(self.prompts[-1]) for _ in range(PROBES)],
            **self._stream(tokens, seed),
            "step_ns": self._steps(tokens, seed),
        }

    def _first_piece(self, prompt: str, seed: int) -> float:
        begin = perf_counter()
        for _ in self.generator.stream(prompt, max_new_tokens=1, seed=seed, **self.options):
            break
        return perf_counter() - begin

    def _encode(self, prompt: str) -> int:
        begin = perf_counter_ns()
        self.generator.tokenizer.encode(prompt)
        return perf_counter_ns() - begin

    def _stream(self, tokens: int, seed: int) -> dict[str, Any]:
        """Stream until enough tokens have come; a text that ends early is followed by another."""
        gaps: list[int] = []
        generated, decode_ns = 0, 0
        for attempt in range(tokens):
            if generated >= tokens:
                break
            stream = self.generator.stream(
                self.prompts[0],
                max_new_tokens=tokens - generated + 1,
                seed=seed + attempt,
                **self.options,
            )
            times = [perf_counter_ns() for _ in stream]
            end = perf_counter_ns()
            if times:
                gaps += [after - before for before, after in pairwise(times)]
                generated += len(stream.result.tokens) - 1
                decode_ns += end - times[0]
        return {"stream_ns": gaps, "stream_tokens": generated, "stream_decode_s": decode_ns * 1e-9}

    def _steps(self, tokens: int, seed: int) -> list[int]:
        """Decode with the session alone, past ends of text; at the end of the context begin again."""
        from edgetext_bench.sweeps import timed_steps

        return timed_steps(self.generator, self.prompts[0], self.job["sampling"], tokens, seed)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Read the job, then one request per line; answer each with one line."""

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    line = requests.readline()
    if not line:
        return
    worker = Worker(json.loads(line))
    answer(
        {"ready": True}
    )  # the parent's clock stops here: nothing may come before it that a user would not wait for
    for line in requests:
        request = json.loads(line)
        answer(_do(worker, request.pop("do"), request))


def _do(worker: Worker, name: str, request: dict[str, Any]) -> dict[str, Any]:
    from edgetext_bench import sweeps
    from edgetext_bench.memory import memory

    generator, sampling = worker.generator, worker.job["sampling"]
    match name:
        case "describe" | "reload" | "settle" | "round":
            return getattr(worker, name)(**request)
        case "memory":
            return memory()
        case "sweep":
            return sweeps.sweep(generator, sampling, **request)
        case "split":
            return sweeps.split(generator, sampling, **request)
        case "sustain":
            from edgetext_bench.sustained import sustain

            return sustain(generator, worker.job["prompt"], sampling, **request)
    raise ValueError(name)


def main() -> None:
    """Serve over standard input and output; errors go to the parent as an answer."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever prints must not end up between the answers
    from edgetext_runtime.errors import EdgetextError

    try:
        serve(sys.stdin, answers)
    except EdgetextError as error:
        answers.write(json.dumps({"error": type(error).__name__, "message": str(error)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
