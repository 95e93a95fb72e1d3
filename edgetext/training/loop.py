"""The one training loop: teachers, students and adversarial pairs all go through `train`.

Every step is a pure function of (settings, step): batches, learning rate and the random seeds are derived
from the step number. That is why a training killed at any moment and resumed from its last checkpoint
ends with the same weights, bit for bit on the CPU, as one that was never killed; and why several processes
give what one gives, to rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgetext.errors import CheckpointError, TrainingError
from edgetext.training.optimizer import build_optimizer, learning_rate
from edgetext.training.players import Players, compiled, frozen_modules
from edgetext.training.processes import (
    agreed,
    any_process,
    check_replicas,
    expected_warnings,
    gradients_apart,
    mean_figures,
    reach_all,
)
from edgetext.training.processes import resolve_precision as resolve_precision
from edgetext.training.progress import TrainingProgress
from edgetext.training.resume import RESUME_FILE, Progress, load_progress, save_progress, trim_metrics
from edgetext.training.settings import LoopSettings, OptimizerSettings
from edgetext.training.sharding import whole
from edgetext.training.stopping import stop_requested

METRICS_FILE = "metrics.jsonl"
MOST_ROLLBACKS = 3
"""Times that a training which keeps its start goes back to its best state before it is given up."""
VISIBLE_S = 30.0
"""Seconds in which a shared file system must show other nodes what one has written."""


class Turn(NamedTuple):
    """One player's move in a step."""

    player: str
    """Which player's weights the loss updates."""
    loss: Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]
    """Part of the step's batch → (loss, figures to record); the step's are the means over all parts.

    Parts are numbered over all processes: there are `LoopSettings.parts` of them.
    """


class Task(Protocol):
    """What is trained. `score` of the validation is better when lower and chooses the weights kept.

    A task may also have ``frozen``, modules by name that it reads but does not train (a teacher): the loop
    places them and gives them to `prepare` beside the players. And ``shardable``: whether its players may be
    split over processes, which they may if they are called as a whole only. And ``keeps_start``: whether what
    the players are at the start counts as a result; they are then validated before the first step, and the
    training goes back to its best state when a validation has ``collapsed`` above 0 or a loss is not finite.
    Of several processes every one holds the task and validates; what only one should do, saving, the loop
    leaves to the main one.
    """

    name: str
    players: Mapping[str, nn.Module]
    optimizers: Mapping[str, OptimizerSettings]

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the (possibly wrapped) modules and the device to train with.

        Losses must be computed with these modules: their forwards see to precision and to other processes.
        """

    def turns(self, step: int) -> Iterable[Turn]:
        """Return the moves of one step, in order."""

    def tokens(self) -> int:
        """Tokens seen per step, for the tokens/s figure."""

    def windows_per_pass(self) -> int:
        """Windows in one pass over the training split."""

    def validate(self) -> Mapping[str, float]:
        """Return validation figures with at least ``score``."""

    def save(self, directory: Path) -> None:
        """Write the trained model to `directory` (the players hold the best weights)."""


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training."""

    steps: int
    """Optimiser steps done."""
    best_step: int
    """Step whose weights were kept."""
    best_score: float
    """Validation score of the weights kept."""
    seconds: float
    """Training time."""
    stopped: str
    """Why it ended: ``steps``, ``patience`` or ``collapse``."""
    interrupted: bool
    """Whether somebody asked to stop during its last step."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: raised after a resumable checkpoint was written."""


def step_seed(seed: int, name: str, *place: int) -> int:
    """Seed of torch's random state at one place of one stage: a step, a turn of it, a part of that."""
    digest = hashlib.sha256("/".join(map(str, (seed, name, *place))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@expected_warnings()
def train(
    task: Task,
    loop: LoopSettings,
    directory: Path,
    *,
    fingerprint: str,
    accelerator: Accelerator,
    write: Callable[[str], object] | None = None,
) -> TrainingResult:
    """Run a task to its end, from the last checkpoint in `directory` if there is one.

    Leaves the best weights in the players and, through `task.save`, in `directory`; writes metrics.jsonl on
    the way. The last checkpoint stays: the caller removes it once it has recorded the result. Of several
    processes all call this with the same arguments; the main one writes, and the result is the same in all.
    Raises Interrupted after writing a checkpoint when asked to stop, CheckpointError when the checkpoint
    found belongs to other settings, TrainingError when a loss is not finite, ConfigError when the batch
    cannot be shared among the processes.
    """
    loop.parts(accelerator.num_processes)
    main = accelerator.is_main_process
    resume_path, metrics_path = directory / RESUME_FILE, directory / METRICS_FILE
    if main:
        directory.mkdir(parents=True, exist_ok=True)
    resumes = agreed(accelerator, resume_path.exists())
    _check_shared(directory, resume_path if resumes else directory)
    players = Players.place(task, loop, accelerator)
    optimizers = {
        name: build_optimizer(module, task.optimizers[name]) for name, module in players.live.items()
    }
    progress = Progress()
    if resumes:
        progress = load_progress(resume_path, fingerprint, players.live, optimizers)
    if main:
        trim_metrics(metrics_path, progress.step)
    wrapped = players.wrap(accelerator)
    called = {**wrapped, **frozen_modules(task, loop, accelerator)}
    task.prepare(compiled(called) if loop.compile else called, accelerator.device)

    stepper = _Stepper(task, loop, wrapped, optimizers, accelerator)
    if getattr(task, "keeps_start", False) and progress.step == 0:
        _validate(task, progress, players, accelerator)
    first, started, before = progress.step, time.monotonic(), progress.seconds
    stopped, stopping = "steps", False
    with (
        stop_requested() as stop,
        TrainingProgress(task.name, loop.steps, first, write if main else _silent) as bar,
        metrics_path.open("a", encoding="utf-8", buffering=1) if main else nullcontext() as metrics,
    ):
        while progress.step < loop.steps:
            figures, fell = stepper.attempt(progress.step, progress.stale)
            progress.step += 1
            progress.seconds = before + time.monotonic() - started
            noted = _look(task, loop, progress, players, optimizers, accelerator, fell)
            record: dict[str, Any] = {"step": progress.step, **figures, **noted}
            if metrics is not None:
                metrics.write(json.dumps({**record, "seconds": round(progress.seconds, 3)}) + "\n")
            bar.update(progress.step, (progress.step - first) * task.tokens(), _headline(figures, progress))
            ended = _ending(loop, progress)
            stopping = any_process(accelerator, stop.is_set())
            if (progress.step % loop.checkpoint_every == 0 or stopping) and ended is None:
                save_progress(resume_path, fingerprint, progress, players.live, optimizers, main=main)
                if stopping:
                    accelerator.wait_for_everyone()  # no process may end the launch before the file is whole
                    raise Interrupted(f"{task.name}: stopped at step {progress.step}")
            if ended is not None:
                stopped = ended
                break
    _load_best(players.live, progress)
    players.gather(accelerator)
    if main:
        task.save(directory)
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    result = TrainingResult(
        progress.step, progress.best_step, progress.best_score, progress.seconds, stopped, stopping
    )
    return TrainingResult(**agreed(accelerator, vars(result)))


def _silent(line: str) -> None:
    """The progress of a process that nobody watches."""


def _check_shared(directory: Path, path: Path) -> None:
    """Raise CheckpointError if this process does not see what the main one has written."""
    deadline = time.monotonic() + VISIBLE_S
    while not path.exists():
        if time.monotonic() < deadline:
            time.sleep(0.1)
            continue
        raise CheckpointError(
            f"{path} is there for the main process but not for this one; --run must lie on a file system "
            f"that all nodes share"
        )


@dataclass(frozen=True)
class _Stepper:
    """All that a step needs beside its number."""

    task: Task
    loop: LoopSettings
    wrapped: Mapping[str, nn.Module]
    """The players as the processes share them."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    accelerator: Accelerator

    def attempt(self, step: int, stale: int) -> tuple[dict[str, float], bool]:
        """One step, and whether it left the numbers; without a state to go back to that is an error."""
        try:
            return self.step(step, stale), False
        except TrainingError:
            if not getattr(self.task, "keeps_start", False):
                raise
            return {}, True

    def step(self, step: int, stale: int) -> dict[str, float]:
        """One optimiser step of every player whose turn it is; returns the mean figures of all processes.

        `stale` counts validations since the best one, for schedules that look at it.
        """
        figures: dict[str, float] = {}
        for module in self.wrapped.values():
            module.train()
        turns, index = iter(self.task.turns(step)), 0
        while True:
            torch.manual_seed(step_seed(self.loop.seed, self.task.name, step, index))
            turn = next(turns, None)
            if turn is None:
                return figures
            figures |= self._turn(turn, step, index, stale)
            index += 1

    def _turn(self, turn: Turn, step: int, index: int, stale: int) -> dict[str, float]:
        """One player's move: the mean loss over all parts of the batch, and a step down its gradient."""
        settings, optimizer = self.task.optimizers[turn.player], self.optimizers[turn.player]
        rate = learning_rate(step, settings, self.loop, stale)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        for number in range(self.loop.accumulation):
            part = self.accelerator.process_index * self.loop.accumulation + number
            torch.manual_seed(step_seed(self.loop.seed, self.task.name, step, index, part))
            apart = number + 1 < self.loop.accumulation
            with gradients_apart(self.wrapped.values()) if apart else nullcontext():
                for name, value in self._part(turn, part).items():
                    figures[name] = figures.get(name, 0.0) + value / self.loop.accumulation
        figures = mean_figures(self.accelerator, figures)
        loss = figures[f"{turn.player}_loss"]
        self._check_finite(turn.player, "loss", loss, step)
        norm = self._clip(turn.player, settings.clip_norm)
        self._check_finite(turn.player, "gradient", norm, step)
        self.optimizers[turn.player].step()
        figures[f"{turn.player}_gradient_norm"] = norm
        return figures

    def _check_finite(self, player: str, what: str, value: float, step: int) -> None:
        """Stop before the weights take in what is no number."""
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.task.name}: the {player}'s {what} is {value} at step {step + 1}; "
                f"lower its learning rate (--teacher-rate, --student-rate) or train with --precision fp32"
            )

    def _part(self, turn: Turn, part: int) -> dict[str, float]:
        """Add the gradient of one part; returns its figures."""
        with self.accelerator.autocast():
            loss, values = turn.loss(part)
        loss = reach_all(loss, self.wrapped.values())
        self.accelerator.backward(loss / self.loop.accumulation)
        return {name: float(v) for name, v in {f"{turn.player}_loss": loss.detach(), **values}.items()}

    def _clip(self, player: str, clip_norm: float) -> float:
        """Clip the gradient; returns its norm before."""
        parameters = [p for p in self.wrapped[player].parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # what the loss does not depend on: zero, however many processes
                parameter.grad = torch.zeros_like(parameter)
        return float(whole(nn.utils.clip_grad_norm_(parameters, clip_norm)))


def _look(
    task: Task,
    loop: LoopSettings,
    progress: Progress,
    players: Players,
    optimizers: Mapping[str, torch.optim.Optimizer],
    accelerator: Accelerator,
    fell: bool,
) -> dict[str, Any]:
    """Validate if it is time, and go back to the best state if step or validation say so; for the record."""
    record: dict[str, Any] = {}
    if progress.step % loop.validate_every == 0 or progress.step == loop.steps:
        record["validation"] = _validate(task, progress, players, accelerator)
        fell = fell or record["validation"].get("collapsed", 0) > 0
    if fell:
        _roll_back(players.live, optimizers, progress)
        record["rolled_back_to"] = progress.best_step
    return record


def _ending(loop: LoopSettings, progress: Progress) -> str | None:
    """Why the training ends after this step; None if it goes on."""
    if progress.rollbacks >= MOST_ROLLBACKS:
        return "collapse"
    if loop.patience and progress.stale >= loop.patience:
        return "patience"
    return "steps" if progress.step == loop.steps else None


def _validate(task: Task, progress: Progress, players: Players, accelerator: Accelerator) -> dict[str, float]:
    """Validate, and remember the weights if they are the best so far."""
    for module in players.live.values():
        module.eval()
    if not players.split:
        check_replicas(accelerator, players.live)
    # A split player has no wrapper of its own that sees to the precision.
    with torch.no_grad(), accelerator.autocast() if players.split else nullcontext():
        figures: dict[str, float] = agreed(accelerator, dict(task.validate()))
    if progress.step <= getattr(task, "settled_from", 0):
        return figures  # what it is to be judged by is not trained yet
    if figures["score"] < progress.best_score:
        progress.best_score, progress.best_step, progress.stale = figures["score"], progress.step, 0
        progress.best = {
            f"{player}/{name}": parameter.detach().clone()
            for player, module in players.live.items()
            for name, parameter in module.named_parameters()
        }
    else:
        progress.stale += 1
    return figures


def _load_best(players: Mapping[str, nn.Module], progress: Progress) -> None:
    """Put the best weights back into the players (none before a first validation)."""
    with torch.no_grad():
        for player, module in players.items():
            for name, parameter in module.named_parameters():
                key = f"{player}/{name}"
                if key in progress.best:
                    parameter.copy_(progress.best[key])
            module.eval()


def _roll_back(
    players: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], progress: Progress
) -> None:
    """Go back to the best state, with fresh optimisers."""
    _load_best(players, progress)
    for optimizer in optimizers.values():
        optimizer.state.clear()
    progress.rollbacks += 1


def _headline(figures: Mapping[str, float], progress: Progress) -> dict[str, float]:
    """The few figures worth a place on one line."""
    shown = {name.removesuffix("_loss"): value for name, value in figures.items() if name.endswith("_loss")}
    headline = {"loss": next(iter(shown.values()))} if len(shown) == 1 else shown
    if progress.best_step >= 0:
        headline["best"] = progress.best_score
    return headline
