"""Fuzzing the runtime: ``python tests/fuzz/campaign.py bundles|prompts --count 20000 -o record.json``.

Cases run in a process of their own, with bounded memory and file size; the parent watches the time of each
and starts the process again after a case that ended it. A case passes if it gives a result or an error of the
runtime's own tree, and neither opens a file for writing nor a socket nor a process. Bundles are loaded with
both backends; those that load replay their golden tokens and generate. Case n draws its random numbers from n;
mutants that reach lines of the runtime which none before them did are mutated further (bundles only), so a
bundle that fails is written to ``--keep``.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

CASE_SECONDS = 30
"""A case that takes longer counts as hanging."""
SPACE_BYTES = 6 << 30
"""Address space the process may take beyond what it has when it starts."""
RESIDENT_BYTES = 1 << 30
"""Memory a case may touch."""
_FORBIDDEN = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename",
    "os.mkdir", "os.rmdir", "os.truncate", "shutil.", "pickle.", "urllib.", "tempfile.",
)  # fmt: skip


class Forbidden(BaseException):
    """Something no bundle and no prompt may bring about."""


class Guard:
    """Watches the process by an audit hook while a case runs."""

    def __init__(self) -> None:
        self.active = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event.startswith(_FORBIDDEN):
            self.active = False
            raise Forbidden(f"{event} {arguments}")


class Coverage:
    """Lines of the runtime that were run while a case did."""

    def __init__(self) -> None:
        import edgetext_runtime

        self._folder = str(Path(edgetext_runtime.__file__).parent)
        self.seen: set[tuple[str, int]] = set()
        self._new = 0

    def __enter__(self) -> "Coverage":
        self._new = len(self.seen)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    @property
    def grew(self) -> bool:
        """Whether the last case reached new lines."""
        return len(self.seen) > self._new

    def _call(self, frame: Any, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._folder) else None

    def _line(self, frame: Any, event: str, _: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def run_case(work: Any, guard: Guard) -> str:
    """Do the work; return what came of it: "result", the name of a documented error, or "FAILED …"."""
    from edgetext_runtime.errors import EdgetextError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    guard.active = True
    try:
        outcome = work() or "result"
    except EdgetextError as error:
        outcome = type(error).__name__ if str(error).strip() else "FAILED an error without a message"
    except Forbidden as error:
        outcome = f"FAILED forbidden: {error}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what we look for
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f"FAILED {error!r:.300} at {Path(where.filename).name}:{where.lineno}"
    finally:
        guard.active = False
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return outcome if grown < RESIDENT_BYTES else f"FAILED {grown:,} bytes of memory"


def child(kind: str, first: int, count: int, also: list[str], keep: str | None, guided: bool) -> None:
    """Run cases; one line of output for each."""
    os.environ.update(ORT_DISABLE_TELEMETRY="1", EDGETEXT_TUNING="off")
    from fuzz import cases

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    source = cases.Bundles(also) if kind == "bundles" else cases.Prompts(also)
    resource.setrlimit(resource.RLIMIT_AS, (space + SPACE_BYTES,) * 2)
    guard, coverage = Guard(), Coverage()
    for number in range(first, first + count):
        case = source.draw(random.Random(number))
        if keep:
            Path(keep, "running").write_bytes(case.data)
        if source.guided and guided:
            with coverage:
                outcome = run_case(case.run, guard)
            if coverage.grew:
                source.learn(case)
        else:
            outcome = run_case(case.run, guard)
        print(json.dumps([number, outcome, case.kind]), flush=True)


def campaign(
    kind: str, first: int, count: int, also: list[str], keep: Path | None, guided: bool = True
) -> dict[str, Any]:
    """Run all cases; return the outcomes and every failure."""
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    began, at = time.monotonic(), first
    with tempfile.TemporaryDirectory() as scratch:
        while at < first + count:
            at = _watch(
                kind, at, first + count - at, also, Path(scratch), keep, outcomes, kinds, failures, guided
            )
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{at - first:,} of {count:,}, {len(failures)} failed ")
    return {
        "kind": kind,
        "first": first,
        "count": count,
        "guided": guided and kind == "bundles",
        "seconds": round(time.monotonic() - began),
        "outcomes": dict(outcomes.most_common()),
        "kinds": dict(kinds.most_common()),
        "failures": failures,
    }


def _watch(kind, first, count, also, scratch, keep, outcomes, kinds, failures, guided):  # type: ignore[no-untyped-def]
    """One child process, to its end; return the number of the next case."""
    command = [
        sys.executable,
        str(Path(__file__)),
        kind,
        "--first",
        str(first),
        "--count",
        str(count),
        "--child",
    ]
    command += [word for path in also for word in ("--also", path)] + ["--keep", str(scratch)]
    command += [] if guided else ["--unguided"]
    log = (scratch / "stderr").open("wb+")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        at, alive, hung = first, time.monotonic(), threading.Event()

        def watch() -> None:
            while process.poll() is None:
                time.sleep(1)
                if time.monotonic() - alive > CASE_SECONDS + 60 * (
                    at == first
                ):  # the first waits for imports
                    hung.set()
                    process.kill()

        threading.Thread(target=watch, daemon=True).start()
        for line in process.stdout:
            if not line.startswith("[") or not line.endswith("]\n"):
                said = line.strip()[:300]
                failures.append(_failure(at, "?", f"FAILED it wrote {said!r}", scratch, keep))
                continue
            number, outcome, name = json.loads(line)
            at, alive = number + 1, time.monotonic()
            kinds[name] += 1
            outcomes[outcome if not outcome.startswith("FAILED") else "FAILED"] += 1
            if outcome.startswith("FAILED"):
                failures.append(_failure(number, name, outcome, scratch, keep))
    if at < first + count:
        log.seek(0)
        words = log.read().decode(errors="replace").strip()[-500:]
        outcome = (
            "FAILED hang" if hung.is_set() else f"FAILED the process ended ({process.returncode}): {words}"
        )
        outcomes["FAILED"] += 1
        failures.append(_failure(at, "?", outcome, scratch, keep))
        return at + 1
    return at


def _failure(number: int, name: str, outcome: str, scratch: Path, keep: Path | None) -> dict[str, Any]:
    """Note a failure, and keep what failed."""
    if keep and (scratch / "running").exists():
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"case-{number}").write_bytes((scratch / "running").read_bytes())
    return {"case": number, "kind": name, "outcome": outcome}


def main() -> int:
    """The command line; exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=["bundles", "prompts"])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--also", action="append", default=[], help="a bundle to use beside the tiny ones")
    parser.add_argument("--unguided", action="store_true", help="without coverage: several times as fast")
    parser.add_argument("--keep", help="folder for cases that fail")
    parser.add_argument("-o", "--output", type=Path, help="the record (JSON); several runs add up in it")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.kind, options.first, options.count, options.also, options.keep, not options.unguided)
        return 0
    keep = Path(options.keep) if options.keep else None
    record = campaign(options.kind, options.first, options.count, options.also, keep, not options.unguided)
    print(json.dumps(record))
    if options.output:
        known = json.loads(options.output.read_text()) if options.output.exists() else []
        options.output.write_text(json.dumps([*known, record], indent=1) + "\n")
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own modules
    sys.exit(main())
