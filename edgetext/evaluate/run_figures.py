"""What a finished run is compared by: its figures, its settings, and what its perplexity is a perplexity of.

No torch here: everything is in the run's records and in its int8 bundle.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetext.checkpoint import read_json
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.config import TRAINING_ONLY
from edgetext_runtime.bundle import read_bundle

BUNDLE = "student-int8.etx"
"""What `edgetext export RUN --int8` writes into a run."""
FIRST_RECIPE = "hinton"
"""Recipe of runs whose configuration names none."""
NO_SETTING = {
    *("seed", "versions", "checkpoint_every", "frontier"),
    *("corpus", "tokenizer", "vocab_size"),
}
"""Parts of a configuration that do not tell two experiments apart; text and tokenizer go by their hashes."""
STAGES = ("finetune", "refine", "quantized")
"""Stages that a run may leave out; `refine` also has a table of settings."""
WORDS_OF_A_RECIPE = {"name", "summary", "source"}
"""Parts of a recipe that say what it is, not what it does."""


@dataclass(frozen=True)
class RunFigures:
    """What one run is compared by."""

    directory: str
    """As it was given."""
    corpus: str
    """File name of the text."""
    recipe: str
    seed: int
    settings: Mapping[str, Any]
    """Flat configuration without what `NO_SETTING` names; the run's own seed in a path reads `{seed}`."""
    shape: Mapping[str, Any]
    """The student's model configuration without its dropouts, which are training, not shape."""
    protocol: Mapping[str, str]
    """What must be equal for two perplexities to be comparable."""
    parameters: int
    bundle_bytes: int
    perplexity: float
    """Of the exported int8 bundle on the test split."""
    quantisation_cost: float
    """Its relative increase over the same weights in float32."""
    tokens: int
    """Test tokens that `perplexity` is a mean over."""
    teacher_tokens: int | None
    """Test tokens that `teacher_perplexity` is a mean over."""
    agreement: float | None
    """Share of test positions with the teacher's most likely token; None without a teacher."""
    kl_teacher: float | None
    """KL(teacher ‖ student) in nats per token; None without a teacher."""
    teacher_perplexity: float | None
    seconds: float | None
    """Training of the student, all its stages."""
    processor: str


def read_runs(directories: Sequence[Path]) -> list[RunFigures]:
    """Read the figures of runs, each directory once. Raises CheckpointError with what is still to be done."""
    chosen = {path.resolve(): path for path in reversed(directories)}
    missing = [line for path in reversed(chosen.values()) for line in _missing(path)]
    if missing:
        raise CheckpointError("not every run can be compared yet; " + "; ".join(missing))
    return [_read_run(path) for path in reversed(chosen.values())]


def check_comparable(runs: Sequence[RunFigures]) -> None:
    """Refuse runs whose perplexities do not mean the same. Raises ConfigError naming runs and differences."""
    problems = []
    for name in runs[0].protocol if runs else ():
        values = Counter(run.protocol[name] for run in runs)
        if len(values) > 1:
            usual = values.most_common(1)[0][0]
            others = [f"{run.directory} has {run.protocol[name]}" for run in runs]
            others = [line for line, run in zip(others, runs, strict=True) if run.protocol[name] != usual]
            problems.append(f"{name} (most have {usual}): {', '.join(others)}")
    if problems:
        raise ConfigError(
            f"the perplexities of these runs are not comparable; they differ in {'; '.join(problems)}. "
            f"Compare runs of one corpus, split, tokenizer and protocol; the number of test tokens is chosen "
            f"with `edgetext export RUN --int8 --tokens N --force`"
        )


def comparable_sets(runs: Sequence[RunFigures]) -> list[list[RunFigures]]:
    """Cut runs into sets that can each stand in one table, in the order in which they first appear."""
    sets: dict[str, list[RunFigures]] = {}
    for run in runs:
        sets.setdefault(canonical(run.protocol), []).append(run)
    return list(sets.values())


def _missing(directory: Path) -> list[str]:
    """What a run still lacks, each with the command that makes it."""
    if not (directory / "config.json").is_file():
        return [f"{directory} is not a run of `edgetext distill`: check the path"]
    if not (directory / "result.json").is_file():
        return [f"{directory} is not finished: edgetext distill --run {directory} --resume"]
    if not (directory / BUNDLE).is_file():
        return [f"{directory} has no {BUNDLE}: edgetext export {directory} --int8"]
    return []


def _read_run(directory: Path) -> RunFigures:
    """Read one finished run. Raises CheckpointError naming the directory if a record is not as expected."""
    config, corpus, result = (read_json(directory / f"{n}.json") for n in ("config", "corpus", "result"))
    bundle = read_bundle(directory / BUNDLE)
    try:
        quality = json.loads(bundle.members["quality.json"])
        rows = {row["name"]: row for row in result["models"]}
        student, teacher = rows[result["student"]], rows.get("teacher", {})
        if bundle.manifest.parameters != student["parameters"]:
            raise CheckpointError(
                f"{directory / BUNDLE} has {bundle.manifest.parameters:,} parameters, the run's student "
                f"{student['parameters']:,}; export it again: edgetext export {directory} --int8 --force"
            )
        seed = int(config["seed"])
        return RunFigures(
            directory=str(directory),
            corpus=str(corpus["source"]).rstrip("/").rpartition("/")[2],
            recipe=_recipe(config.get("recipe", FIRST_RECIPE)),
            seed=seed,
            settings=_settings(config, seed),
            shape={k: v for k, v in bundle.manifest.config.items() if k not in TRAINING_ONLY},
            protocol=_protocol(corpus, result, quality),
            parameters=bundle.manifest.parameters,
            bundle_bytes=(directory / BUNDLE).stat().st_size,
            perplexity=float(quality["perplexity"]["exported"]),
            quantisation_cost=float(quality["perplexity_increase"]),
            tokens=int(quality["tokens"]),
            teacher_tokens=result["protocol"]["tokens"]["test"] if teacher else None,
            agreement=student.get("agreement"),
            kl_teacher=student.get("kl_teacher"),
            teacher_perplexity=teacher.get("test_perplexity"),
            seconds=_student_seconds(result, rows),
            processor=str(result["machine"]["processor"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{directory}: its records are not those of this version ({type(error).__name__}: {error}); "
            f"finish it again with `edgetext distill --run {directory} --resume` and export it"
        ) from error


def _protocol(
    corpus: Mapping[str, Any], result: Mapping[str, Any], quality: Mapping[str, Any]
) -> dict[str, str]:
    """What must be equal for two perplexities to be comparable, in words."""
    settings, test = corpus["config"], corpus["splits"]["test"]
    marked = f", sha256 {test['sha256'][:12]}" if "sha256" in test else ""
    reading = {name: value for name, value in result["protocol"].items() if name != "tokens"}
    exported = {name: quality[name] for name in ("split", "window", "windows") if name in quality}
    return {
        "the text": f"sha256 {corpus['sha256'][:12]}",
        "the split": f"valid {settings['valid_fraction']:g}, test {settings['test_fraction']:g}, "
        f"seed {settings['split_seed']}, cut by {corpus['unit']}",
        "the tokenizer": f"{corpus['tokenizer']['kind']} sha256 {corpus['tokenizer']['sha256'][:12]}",
        "the test split": f"{test['documents']:,} documents, {test['tokens']:,} tokens{marked}",
        "the protocol": " ".join(
            f"{name} {value}" for name, value in sorted({**reading, **exported}.items())
        ),
        "the bundle's test tokens": f"{quality['tokens']:,}",
    }


def _recipe(value: Any) -> str:
    """Name of a recipe: as it is, of a file without its ending, of a table its `name`."""
    if isinstance(value, Mapping):
        value = value["name"]
    return Path(str(value)).stem if str(value).endswith(".toml") else str(value)


def _settings(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What tells one experiment from another, flat: no settings of a stage that took no steps."""
    idle = [stage for stage in STAGES if not config.get(f"{stage}_steps")]
    idle += ["teacher"] if config.get("cache") else []  # none is trained
    unused = {name for stage in idle for name in (stage, f"{stage}_steps", f"{stage}_rate")}
    chosen = {name: value for name, value in config.items() if name not in NO_SETTING | unused}
    recipe = chosen.pop("recipe", None)
    if isinstance(recipe, Mapping):
        chosen["recipe"] = {k: v for k, v in recipe.items() if k not in WORDS_OF_A_RECIPE}
    return {name: _without_seed(value, seed) for name, value in _leaves(chosen)}


def _without_seed(value: Any, seed: int) -> Any:
    """Replace the run's own seed in a path such as `runs/teacher-seed3`: each seed may have its teacher."""
    if isinstance(value, str):
        return re.sub(rf"(seed[-_=]?){seed}(?!\d)", r"\1{seed}", value)
    return [_without_seed(part, seed) for part in value] if isinstance(value, list) else value


def _student_seconds(result: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Seconds of the stages that made the student; a refinement that was refused did not."""
    verdict, student = result.get("refinement"), result["student"]
    made = ["distilled", *(["refined"] if verdict and verdict["accepted"] else []), "quantized"]
    stages = [rows[name].get("seconds") for name in made[: made.index(student) + 1] if name in rows]
    seconds = [float(value) for value in stages if value is not None]
    return sum(seconds) if len(seconds) == len(stages) else None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield (dotted name, value) of everything in nested tables; terms of a loss go by the loss's name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            parts = {str(part.get("loss", number)): part for number, part in enumerate(value)}
            yield from _leaves(parts, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, default=dict)
