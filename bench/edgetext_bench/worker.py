"""The process that is measured: loads one bundle, then does what it is told, one JSON line per request.

``python -m edgetext_bench.worker`` reads a job from its first line of input, loads the bundle, generates the
first token, and answers; then it serves requests until its input ends. A process of its own per bundle and
thread count keeps memory figures clean, and one that waits for a line uses no processor.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
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
        job: ``path``, ``threads``, ``prompt``, ``long_prompt_tokens`` and ``sampling``, as keywords of
            ``Generator.stream``.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        from edgetext_runtime import Generator

        self.job = job
        begin = perf_counter()
        self.generator: Generator = Generator.load(job["path"], threads=job["threads"])
        self.load_s = perf_counter() - begin
        self.prompt: str = job["prompt"]
        for _ in self.generator.stream(self.prompt, max_new_tokens=1, seed=0, **job["sampling"]):
            break
        self.long_prompt = ""

    def describe(self) -> dict[str, Any]:
        """Return what is known after the first token, and make the long prompt.

        Raises:
            InputError: the prompt fills the model's context.
        """
        from edgetext_runtime.errors import InputError

        tokenizer, context = self.generator.tokenizer, self.generator.manifest.context_length
        wanted = min(self.job["long_prompt_tokens"], (context or sys.maxsize) // 2)
        short = len(tokenizer.encode(self.prompt))
        further = len(tokenizer.encode(f"{self.prompt} {self.prompt}")) - short
        self.long_prompt = " ".join([self.prompt] * (1 + max(0, wanted - short) // max(1, further)))
        long = len(tokenizer.encode(self.long_prompt))
        if context and short + _ROOM > context:
            raise InputError(
                f"prompt has {short} tokens, which leaves nothing to decode in the model's context of "
                f"{context}; shorten it (--prompt)"
            )
        return {"load_s": self.load_s, "short_prompt_tokens": short, "long_prompt_tokens": long}

    def reload(self) -> dict[str, Any]:
        """Load the bundle once more, now that everything is imported."""
        from edgetext_runtime import Generator

        begin = perf_counter()
        Generator.load(self.job["path"], threads=self.job["threads"])
        return {"reload_s": perf_counter() - begin}

    def round(self, tokens: int, seed: int) -> dict[str, Any]:
        """Measure first tokens, then a stretch of the stream, then a stretch of the session alone."""
        return {
            "ttft_short_s": [self._first_piece(self.prompt, seed + i) for i in range(PROBES)],
            "ttft_long_s": [self._first_piece(self.long_prompt, seed + i) for i in range(PROBES)],
            **self._stream(tokens, seed),
            "step_ns": self._steps(tokens, seed),
        }

    def _first_piece(self, prompt: str, seed: int) -> float:
        begin = perf_counter()
        for _ in self.generator.stream(prompt, max_new_tokens=1, seed=seed, **self.job["sampling"]):
            break
        return perf_counter() - begin

    def _stream(self, tokens: int, seed: int) -> dict[str, Any]:
        """Stream until enough tokens have come; a text that ends early is followed by another."""
        gaps: list[int] = []
        generated, decode_ns = 0, 0
        for attempt in range(tokens):
            if generated >= tokens:
                break
            stream = self.generator.stream(
                self.prompt,
                max_new_tokens=tokens - generated + 1,
                seed=seed + attempt,
                **self.job["sampling"],
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
        import numpy as np

        from edgetext_runtime import SamplingParams

        session, manifest = self.generator.session, self.generator.manifest
        sampling = SamplingParams(**self.job["sampling"])
        prompt = np.array([[manifest.eos_id, *self.generator.tokenizer.encode(self.prompt)]], dtype=np.int64)
        uniforms = np.random.Generator(np.random.PCG64(seed)).random(tokens, dtype=np.float32)
        limit = manifest.context_length or sys.maxsize
        state, token = None, 0
        samples = []
        for uniform in uniforms.tolist():
            if state is None or state.length >= limit:
                state = session.new_state()
                drawn = np.array([uniform], dtype=np.float32)
                token = int(session.run(prompt, state, sampling=sampling, uniform=drawn).next_token[0])
                token = session.step(token, state, sampling, uniform)  # binds its buffers: not a token's cost
            begin = perf_counter_ns()
            token = session.step(token, state, sampling, uniform)
            samples.append(perf_counter_ns() - begin)
        return samples


def peak_rss_bytes() -> int | None:
    """Return the highest resident memory of this process so far, in bytes; None where it is not known.

    ``VmHWM`` begins anew with a program; ``ru_maxrss`` (the way elsewhere) may still count the parent's.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123 - no pathlib
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
        match request["do"]:
            case "describe":
                answer(worker.describe())
            case "reload":
                answer(worker.reload())
            case "round":
                answer(worker.round(request["tokens"], request["seed"]))
            case "finish":
                answer({"peak_rss_bytes": peak_rss_bytes()})
                return


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
