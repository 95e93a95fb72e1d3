"""A plan's jobs run in processes of their own, kept in records, stopped and continued at any moment.

What is finished is known from `.sweep/NAME.json`, written after every command. A job that is being worked on
holds a lock that lives as long as its process, even if the sweep itself was killed: another sweep waits for
it instead of writing into the same directory.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetext.checkpoint import read_json, write_json
from edgetext.errors import ConfigError
from edgetext.evaluate.compare import Group, group_runs
from edgetext.evaluate.run_figures import comparable_sets, read_runs
from edgetext.sweep.plan import PRODUCT, Job, Step
from edgetext.sweep.process import last_line, release, shared_environment, stop_requests, try_lock

POLL_S = 0.1
"""Seconds between looks at the processes."""
FREE_TO_CHANGE = {"checkpoint-every"}
"""Options that a later plan may change: the result does not depend on them."""


@dataclass(frozen=True)
class SweepResult:
    """What became of the jobs, by name."""

    finished: tuple[str, ...]
    failed: tuple[str, ...]
    blocked: tuple[str, ...]
    """Not started, because a job they need failed."""


@dataclass
class _Running:
    """A job at work."""

    job: Job
    number: int
    """Index of the step."""
    lock: int | None
    started: float
    process: subprocess.Popen[bytes]


@dataclass
class _Sweep:
    """Where a sweep stands."""

    out: Path
    total: int
    slots: int
    say: Callable[[str], object]
    pending: list[Job]
    environment: Mapping[str, str]
    running: list[_Running] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    waited_for: set[str] = field(default_factory=set)


def run_sweep(
    jobs: Sequence[Job], out: Path, *, slots: int = 1, say: Callable[[str], object] = lambda line: None
) -> SweepResult:
    """Run every job that is not finished, up to `slots` at a time; a failed one stops only what needs it.

    Commands write to `logs/NAME.log`. Several at a time share the cores (`OMP_NUM_THREADS`, unless it is
    set). Raises ConfigError if a job was begun with other options; KeyboardInterrupt after SIGINT, SIGTERM or
    SIGHUP, once the commands at work have stopped at a point from which they can be resumed.
    """
    check_unchanged(jobs, out)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    sweep = _Sweep(out, len(jobs), slots, say, list(jobs), shared_environment(slots))
    for job in jobs:
        if steps_done(job, out) == len(job.steps):
            sweep.pending.remove(job)
            sweep.finished.append(job.name)
    if sweep.finished:
        say(f"finished before: {len(sweep.finished)} of {len(jobs)}")
    with stop_requests() as stops:
        while sweep.pending or sweep.running:
            if stops:
                _stop(sweep, stops)
                raise KeyboardInterrupt
            _begin(sweep)
            _look(sweep)
            time.sleep(POLL_S)
    return SweepResult(tuple(sweep.finished), tuple(sweep.failed), tuple(sweep.blocked))


def check_unchanged(jobs: Sequence[Job], out: Path) -> None:
    """Refuse jobs that were begun with other options. Raises ConfigError naming job, option and remedy."""
    for job in jobs:
        before, now = _record(job, out).get("options"), _comparable(job.steps[0])
        if before is None or before == now or not (out / job.name).exists():
            continue
        name = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        raise ConfigError(
            f"{out / job.name} was begun with {name} = {before.get(name)!r}, the plan now says "
            f"{now.get(name)!r} (entry {job.entry!r}): give the entry another name, or delete the directory"
        )


def steps_done(job: Job, out: Path) -> int:
    """Number of a job's commands that need not be run again."""
    done = 0
    for step, options in zip(job.steps, _record(job, out).get("done", ()), strict=False):
        if options != _comparable(step) or not (out / job.name / PRODUCT[step.command]).is_file():
            break
        done += 1
    return done


def commands_left(job: Job, out: Path) -> list[list[str]]:
    """Return the arguments of `edgetext` for every command of a job that is still to be run."""
    return [step.argv(out) for step in job.steps[steps_done(job, out) :]]


def compare_finished(jobs: Sequence[Job], out: Path) -> list[list[Group]]:
    """Compare the finished jobs that end in a bundle: one list of groups per corpus, split and tokenizer."""
    done = [job for job in jobs if job.compared and steps_done(job, out) == len(job.steps)]
    return [group_runs(runs) for runs in comparable_sets(read_runs([out / job.name for job in done]))]


def _comparable(step: Step) -> dict[str, Any]:
    return {key: value for key, value in step.options.items() if key not in FREE_TO_CHANGE}


def _record(job: Job, out: Path) -> dict[str, Any]:
    """What is known of a job's past; empty before its first command."""
    path = out / ".sweep" / f"{job.name}.json"
    return dict(read_json(path)) if path.is_file() else {}


def _write_record(job: Job, out: Path, done: int) -> None:
    """Record the options of a job and the commands that are finished."""
    record = {
        "options": _comparable(job.steps[0]),
        "done": [_comparable(step) for step in job.steps[:done]],
    }
    write_json(out / ".sweep" / f"{job.name}.json", record)


def _begin(sweep: _Sweep) -> None:
    """Start what can be started; set aside what can no longer be."""
    for job in list(sweep.pending):
        if broken := [name for name in job.needs if name in (*sweep.failed, *sweep.blocked)]:
            sweep.pending.remove(job)
            sweep.blocked.append(job.name)
            sweep.say(f"{job.name}: left out, it needs {', '.join(broken)}")
        elif len(sweep.running) < sweep.slots and _ready(sweep, job):
            locked, lock = try_lock(sweep.out / ".sweep" / f"{job.name}.lock")
            if not locked:
                if job.name not in sweep.waited_for:
                    sweep.say(f"{job.name}: another process is at it; waiting for that one to end")
                    sweep.waited_for.add(job.name)
                continue
            sweep.pending.remove(job)
            done = steps_done(job, sweep.out)  # whoever held the lock may have finished it
            if done == len(job.steps):
                release(lock)
                sweep.finished.append(job.name)
                continue
            _write_record(job, sweep.out, done)
            _start(sweep, job, done, lock)


def _ready(sweep: _Sweep, job: Job) -> bool:
    """Whether what a job needs is done; needs outside this selection count as done."""
    waiting = {other.name for other in sweep.pending} | {running.job.name for running in sweep.running}
    return not waiting & set(job.needs)


def _start(sweep: _Sweep, job: Job, number: int, lock: int | None) -> None:
    """Start one command of a job; its output goes to the job's log."""
    command = [sys.executable, "-m", "edgetext", *job.steps[number].argv(sweep.out)]
    log = sweep.out / "logs" / f"{job.name}.log"
    place = len(sweep.finished) + len(sweep.running) + len(sweep.failed) + len(sweep.blocked) + 1
    sweep.say(f"[{place}/{sweep.total}] {job.name}: {job.steps[number].command}, log in {log}")
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(command[1:])}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=sweep.environment,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which then asks each command once
            pass_fds=() if lock is None else (lock,),
        )
    sweep.running.append(_Running(job, number, lock, time.monotonic(), process))


def _look(sweep: _Sweep) -> None:
    """Take note of commands that have ended, and start what follows them."""
    for running in list(sweep.running):
        code = running.process.poll()
        if code is None:
            continue
        sweep.running.remove(running)
        job, seconds = running.job, time.monotonic() - running.started
        made = sweep.out / job.name / PRODUCT[job.steps[running.number].command]
        if code != 0 or not made.is_file():
            sweep.failed.append(job.name)
            log = sweep.out / "logs" / f"{job.name}.log"
            sweep.say(f"{job.name}: failed with exit code {code} ({last_line(log)}); see {log}")
            release(running.lock)
            continue
        done = running.number + 1
        _write_record(job, sweep.out, done)
        sweep.say(f"{job.name}: {job.steps[running.number].command} took {seconds:.0f} s")
        if done < len(job.steps):
            _start(sweep, job, done, running.lock)
        else:
            sweep.finished.append(job.name)
            release(running.lock)


def _stop(sweep: _Sweep, stops: Sequence[int]) -> None:
    """Ask the commands at work to stop, and wait until they have; a second request kills them."""
    if sweep.running:
        sweep.say(f"stopping {', '.join(running.job.name for running in sweep.running)} after this step")
    for running in sweep.running:
        running.process.send_signal(signal.SIGTERM)
    killed = False
    while any(running.process.poll() is None for running in sweep.running):
        if len(stops) > 1 and not killed:
            killed = True
            for running in sweep.running:
                running.process.kill()
        time.sleep(POLL_S)
    for running in sweep.running:
        release(running.lock)
