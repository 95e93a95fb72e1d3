"""A sweep's plan: a TOML file of entries, expanded to jobs, checked before anything starts. No torch here.

    seeds = [0, 1, 2]                       # of every distillation that names none
    [base]                                  # options of `edgetext distill` and `edgetext export`
    corpus = "captions.txt"
    tokenizer = "word"
    tokens = 100000

    [[runs]]
    name = "teacher"                        # {out}/teacher-seed0, -seed1, -seed2
    recipe = "no-teacher"
    student = "lstm-teacher,dropout=0.5"
    export = false                          # nothing to compare

    [[runs]]
    name = "hinton"
    recipe = "hinton"
    teacher = "{out}/teacher-seed{seed}"    # waits for that run

Options are written without their dashes; a list repeats an option, true gives a flag, and false leaves out a
flag, or an option of the base that an entry must not have (`tokenizer = false` beside a trained teacher).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetext.errors import ConfigError
from edgetext.evaluate.run_figures import BUNDLE

OUT = "{out}"
"""Stands for the sweep's directory in values."""
TRAINING, EXPORTING, CACHING = "distill", "export", "cache-targets"
COMMANDS = (TRAINING, CACHING)
"""What an entry's `command` may be."""
PRODUCT = {TRAINING: "result.json", EXPORTING: BUNDLE, CACHING: "manifest.json"}
"""File in a job's directory without which a command cannot have finished."""
OWN_KEYS = {"name", "command", "seeds", "export"}
"""Keys of an entry that are not options."""
HELD = {
    TRAINING: {"run", "resume", "force", "json"},
    EXPORTING: {"output", "force", "json", "int8", "fp32"},
    CACHING: {"output", "resume", "force", "json"},
}
"""Options that the sweep gives itself."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Option:
    """What a command's option takes."""

    flag: str | None
    """As it is typed, `--soft-weight`; None for an argument."""
    takes_value: bool = True
    many: bool = False
    """Whether a list may be given."""
    off: str | None = None
    """What switches a flag off, `--no-x`."""


@dataclass(frozen=True)
class Step:
    """One command of a job."""

    command: str
    options: Mapping[str, Any]
    """From the plan, by name, `{out}` still in place: what a later plan is compared with."""
    arguments: tuple[str, ...]
    """Of `edgetext`, `{out}` still in place."""

    def argv(self, out: Path) -> list[str]:
        """Return the arguments of `edgetext` for a sweep directory."""
        return [argument.replace(OUT, str(out)) for argument in self.arguments]


@dataclass(frozen=True)
class Job:
    """A directory of the sweep and the commands that fill it."""

    name: str
    """Of the directory below the sweep's."""
    entry: str
    """Name of the entry it comes from."""
    steps: tuple[Step, ...]
    needs: tuple[str, ...] = ()
    """Jobs that must be done before."""

    @property
    def compared(self) -> bool:
        """Whether it ends in a bundle."""
        return self.steps[-1].command == EXPORTING


@dataclass
class _Entry:
    """An entry of the plan with what is needed to read it."""

    label: str
    command: str
    values: dict[str, Any]
    seeds: list[int] | None
    exported: bool
    commands: Mapping[str, Mapping[str, Option]]


def read_plan(path: Path, commands: Mapping[str, Mapping[str, Option]]) -> list[Job]:
    """Read a plan and expand it to jobs, in an order in which each comes after what it needs.

    `commands` says which options `distill`, `export` and `cache-targets` have. Raises ConfigError naming the
    entry and the key that cannot be.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the plan {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the plan {path} is not TOML: {error}") from error
    try:
        return expand(document, commands)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def expand(document: Mapping[str, Any], commands: Mapping[str, Mapping[str, Option]]) -> list[Job]:
    """Expand a plan's content to jobs; errors as for `read_plan`."""
    if unknown := sorted(set(document) - {"seeds", "base", "runs"}):
        raise ConfigError(f"unknown key {unknown[0]!r}; a plan has seeds, [base] and [[runs]]")
    base, runs = document.get("base", {}), document.get("runs", [])
    if not isinstance(base, dict) or not isinstance(runs, list) or not runs:
        raise ConfigError("a plan needs at least one [[runs]] entry, and [base] must be a table")
    seeds = _seeds(document.get("seeds"), "the plan")
    base = _options(base, "[base]", commands, (TRAINING, EXPORTING))
    jobs: list[Job] = []
    entries: set[str] = set()
    for number, values in enumerate(runs, start=1):
        entry = _entry(values, number, base, seeds, commands)
        if entry.label in entries:
            raise ConfigError(f"two entries are called {entry.label!r}; names must differ")
        entries.add(entry.label)
        for job in _jobs(entry, [job.name for job in jobs]):
            if job.name in {other.name for other in jobs} | {"logs"}:
                raise ConfigError(f"entry {entry.label!r}: {job.name!r} is taken; choose another name")
            jobs.append(job)
    return jobs


def chosen(jobs: Sequence[Job], only: Sequence[str]) -> list[Job]:
    """Return the jobs of the entries or jobs called `only`, with all they need; every job if it is empty."""
    if not only:
        return list(jobs)
    wanted: set[str] = set()
    for name in only:
        found = {job.name for job in jobs if name in (job.name, job.entry)}
        if not found:
            known = ", ".join(dict.fromkeys(job.entry for job in jobs))
            raise ConfigError(f"--only {name}: the plan has no such entry; it has {known}")
        wanted |= found
    for job in reversed(jobs):  # what is needed stands before what needs it
        if job.name in wanted:
            wanted |= set(job.needs)
    return [job for job in jobs if job.name in wanted]


def _entry(
    values: Any,
    number: int,
    base: dict[str, Any],
    seeds: list[int] | None,
    commands: Mapping[str, Mapping[str, Option]],
) -> _Entry:
    """Read one entry: its own keys, and its options above those of the base."""
    name = values.get("name") if isinstance(values, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"entry {number} needs a name of letters, digits and . _ + - (its directory), not {name!r}"
        )
    where = f"entry {name!r}"
    command = values.get("command", TRAINING)
    if command not in COMMANDS:
        raise ConfigError(f"{where}: command is {command!r}; use one of {', '.join(COMMANDS)}")
    if command not in commands:
        raise ConfigError(f"{where}: this edgetext has no command {command!r}")
    exported = values.get("export", command == TRAINING)
    if not isinstance(exported, bool) or (exported and command != TRAINING):
        raise ConfigError(f"{where}: export is true or false, and true for distillations only")
    places = (TRAINING, EXPORTING) if command == TRAINING else (command,)
    given = {key: value for key, value in values.items() if key not in OWN_KEYS}
    options = _options(given, where, commands, places)
    own = _seeds(values.get("seeds"), where)
    if own is not None and "seed" in options:
        raise ConfigError(f"{where}: seed and seeds are both given; leave one of them out")
    if own is None and command == TRAINING and "seed" not in options:
        own = seeds
    merged = {**(base if command == TRAINING else {}), **options}
    if own is not None and command == TRAINING:
        merged.pop("seed", None)
    merged = {key: value for key, value in merged.items() if not _left_out(key, value, places, commands)}
    return _Entry(name, command, merged, own, exported, commands)


def _left_out(
    key: str, value: Any, places: Sequence[str], commands: Mapping[str, Mapping[str, Option]]
) -> bool:
    """Whether a value only says that an option is not given."""
    option = next(commands[place][key] for place in places if key in commands[place])
    return value is False and option.off is None


def _jobs(entry: _Entry, before: Sequence[str]) -> Iterator[Job]:
    """Yield an entry's jobs: one per seed, or one."""
    for seed in entry.seeds if entry.seeds is not None else [None]:
        name = entry.label if seed is None else f"{entry.label}-seed{seed}"
        values = {key: _filled(value, seed, entry.label, key) for key, value in entry.values.items()}
        if seed is not None and entry.command == TRAINING:
            values["seed"] = seed
        mine = {k: v for k, v in values.items() if k in entry.commands[entry.command]}
        needs = dict.fromkeys(_references(mine, entry.label, before))
        steps = [_step(entry, mine, name)]
        if entry.exported:
            export = {k: v for k, v in values.items() if k not in mine}
            steps.append(_export(entry, export, name))
        yield Job(name, entry.label, tuple(steps), tuple(needs))


def _step(entry: _Entry, options: dict[str, Any], name: str) -> Step:
    """The command that trains or caches."""
    known = entry.commands[entry.command]
    place = "--run" if entry.command == TRAINING else "--output"
    ending = [place, f"{OUT}/{name}", *(["--resume"] if "resume" in known else [])]
    return Step(entry.command, options, (entry.command, *_arguments(options, known, entry.label), *ending))


def _export(entry: _Entry, options: dict[str, Any], name: str) -> Step:
    """The command that writes the bundle; it may replace an older one."""
    known = entry.commands[EXPORTING]
    arguments = (EXPORTING, f"{OUT}/{name}", *_arguments(options, known, entry.label), "--int8", "--force")
    return Step(EXPORTING, options, arguments)


def _arguments(options: Mapping[str, Any], known: Mapping[str, Option], label: str) -> Iterator[str]:
    """Yield options as they are typed. Raises ConfigError if a value is not what the option takes."""
    for key, value in options.items():
        option, where = known[key], f"entry {label!r}, key {key!r}"
        if not option.takes_value:
            if not isinstance(value, bool):
                raise ConfigError(f"{where} is a flag: true or false, not {value!r}")
            switch = option.flag if value else option.off
            yield from [] if switch is None else [switch]
            continue
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not option.many:
            raise ConfigError(f"{where} takes one value, not a list")
        for part in values:
            if isinstance(part, bool) or not isinstance(part, str | int | float):
                raise ConfigError(f"{where} takes a text or a number, not {part!r}")
            if option.flag is not None:
                yield option.flag
            yield str(part)


def _options(
    values: Mapping[str, Any],
    where: str,
    commands: Mapping[str, Mapping[str, Option]],
    places: Sequence[str],
) -> dict[str, Any]:
    """Check names of options; dashes and underscores are the same."""
    options: dict[str, Any] = {}
    for given, value in values.items():
        key = given.replace("_", "-")
        if any(key in HELD[place] for place in places):
            raise ConfigError(f"{where}, key {given!r}: the sweep gives this option itself; leave it out")
        if not any(key in commands[place] for place in places):
            raise ConfigError(
                f"{where}, key {given!r}: no option of `edgetext {'` or `edgetext '.join(places)}` "
                f"(see --help)"
            )
        if key in options:
            raise ConfigError(f"{where}, key {given!r} is given twice")
        options[key] = value
    return options


def _seeds(value: Any, where: str) -> list[int] | None:
    """Check a list of seeds."""
    if value is None:
        return None
    valid = isinstance(value, list) and value and all(type(v) is int and v >= 0 for v in value)
    if not valid or len(set(value)) < len(value):
        raise ConfigError(f"{where}, key 'seeds': a list of different numbers from 0, not {value!r}")
    return list(value)


def _filled(value: Any, seed: int | None, label: str, key: str) -> Any:
    """Put the seed where `{seed}` stands, in texts and lists of texts."""
    if isinstance(value, list):
        return [_filled(part, seed, label, key) for part in value]
    if not isinstance(value, str):
        return value
    for name in _PLACEHOLDER.findall(value):
        if name not in ("out", "seed") or (name == "seed" and seed is None):
            hint = "this entry has no seeds" if name == "seed" else "known are {out} and {seed}"
            raise ConfigError(f"entry {label!r}, key {key!r}: {{{name}}} has no meaning here; {hint}")
    return value.replace("{seed}", str(seed))


def _references(options: Mapping[str, Any], label: str, before: Sequence[str]) -> Iterator[str]:
    """Yield the jobs whose directories are named in values. Raises ConfigError for one not before it."""
    for key, value in options.items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or OUT not in text:
                continue
            target = text.partition(f"{OUT}/")[2].partition("/")[0]
            if target not in before:
                known = ", ".join(before) or "none"
                raise ConfigError(
                    f"entry {label!r}, key {key!r}: {text} is not the directory of a run that stands before "
                    f"it; those are: {known}"
                )
            yield target
