"""A process that measures and waits to be asked, one thing at a time, in JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from time import perf_counter
from typing import IO, Any, cast

import edgetext_runtime.errors
from edgetext_bench.limits import Limits
from edgetext_runtime.errors import EdgetextError

WORKER = "edgetext_bench.worker"
PROBE = "edgetext_bench.roofline"


class MeasuringProcess:
    """A module of this package, run by this interpreter; it has answered once when this is made.

    Args:
        module: ``WORKER`` or ``PROBE``.
        job: its first line.
        name: what to call it in errors.
        limits: what it may use; set before it is told its job.
        cores: the logical processors it may run on; None: as this process.

    Raises:
        EdgetextError: if it fails; the message has its last words.
    """

    def __init__(
        self,
        module: str,
        job: Mapping[str, Any],
        name: str,
        limits: Limits | None = None,
        cores: tuple[int, ...] | None = None,
    ) -> None:
        self._name = name
        # Not a pipe: nobody reads while the process works, and a full pipe would block it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        begin = perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(job["threads"])},
        )
        self._input, self._output = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        self._group = None
        try:
            if cores is not None:
                os.sched_setaffinity(self._process.pid, cores)
            if limits is not None:
                self._group = limits.apply(self._process.pid)
            self._send(job)
            self.answer()
        except BaseException:
            self.close()
            raise
        self.first_answer_s = perf_counter() - begin
        """Start of the process → its first answer: of a worker, its first token."""

    def ask(self, do: str, **parameters: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self._send({"do": do, **parameters})
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for an answer; turn a failure over there into an error here."""
        line = self._output.readline()
        if not line:
            raise EdgetextError(self._last_words())
        content: dict[str, Any] = json.loads(line)
        if "error" in content:
            kind = getattr(edgetext_runtime.errors, content["error"], EdgetextError)
            raise kind(f"{self._name}: {content['message']}")
        return content

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()
        if self._group is not None:
            self._group.close()

    def _send(self, content: Mapping[str, Any]) -> None:
        try:
            self._input.write(json.dumps(content) + "\n")
            self._input.flush()
        except BrokenPipeError:
            raise EdgetextError(self._last_words()) from None

    def _last_words(self) -> str:
        self._process.wait()
        self._stderr.seek(0)
        stderr = self._stderr.read().decode(errors="replace")
        code = self._process.returncode
        reason = (
            f"signal {-code} (4: illegal instruction, 9: out of memory)" if code < 0 else f"exit code {code}"
        )
        words = "\n".join(stderr.strip().splitlines()[-5:])
        return f"{self._name}: the measuring process ended with {reason}\n{words}".strip()
