"""The one training loop: teachers, students and adversarial pairs all go through `train`.

Every step is a pure function of (settings, step): batches, learning rate and the random seed are derived
from the step number. That is why a training killed at any moment and resumed from its last checkpoint
ends with the same weights, bit for bit on the CPU, as one that was never killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgetext.errors import TrainingError
from edgetext.training.progress import TrainingProgress
from edgetext.training.resume import RESUME_FILE, Progress, load_progress, save_progress, trim_metrics
from edgetext.training.settings import LoopSettings, OptimizerSettings, Precision

METRICS_FILE = "metrics.jsonl"


class Turn(NamedTuple):
    """One player's move in a step."""

    player: str
    """Which player's weights the loss updates."""
    loss: Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]
    """Micro-batch index → (mean loss over its tokens, figures to record)."""


class Task(Protocol):
    """What is trained. `score` of the validation is better when lower and chooses the weights kept."""

    name: str
    players: Mapping[str, nn.Module]
    optimizers: Mapping[str, OptimizerSettings]

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        """Take the (possibly wrapped) modules and the device to train with."""

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
    """Why it ended: ``steps`` or ``patience``."""
    interrupted: bool
    """Whether somebody asked to stop during its last step."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: raised after a resumable checkpoint was written."""


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """Return accelerate's name for a precision: ``auto`` is bf16 where matrix units compute it, else fp32."""
    if precision != "auto":
        return {"fp32": "no", "bf16": "bf16"}[precision]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("amx_bf16") else "no"


def learning_rate(step: int, peak: float, loop: LoopSettings) -> float:
    """Linear warm-up, then a cosine down to `final_rate` of the peak."""
    if step < loop.warmup_steps:
        return peak * (step + 1) / loop.warmup_steps
    share = (step - loop.warmup_steps) / max(loop.steps - loop.warmup_steps, 1)
    return peak * (loop.final_rate + (1 - loop.final_rate) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def build_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over a module; weight decay on matrices other than embeddings."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in embeddings]
    plain = [p for p in trainable if p.ndim < 2 or id(p) in embeddings]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.learning_rate, betas=(settings.beta1, settings.beta2)
    )


def step_seed(seed: int, name: str, step: int) -> int:
    """Seed of torch's random state for one step of one stage."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


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
    the way. The last checkpoint stays: the caller removes it once it has recorded the result. Raises
    Interrupted after writing a checkpoint when asked to stop, CheckpointError when the checkpoint found
    belongs to other settings, TrainingError when a loss is not finite.
    """
    directory.mkdir(parents=True, exist_ok=True)
    raw = task.players
    optimizers = {name: build_optimizer(module, task.optimizers[name]) for name, module in raw.items()}
    progress = Progress()
    resume_path, metrics_path = directory / RESUME_FILE, directory / METRICS_FILE
    for module in raw.values():
        module.to(accelerator.device)
    if resume_path.exists():
        progress = load_progress(resume_path, fingerprint, raw, optimizers)
    trim_metrics(metrics_path, progress.step)
    prepared = {name: accelerator.prepare(module) for name, module in raw.items()}
    steppers = {name: accelerator.prepare(optimizer) for name, optimizer in optimizers.items()}
    task.prepare(prepared, accelerator.device)

    first, started, before = progress.step, time.monotonic(), progress.seconds
    stopped = "steps"
    with (
        _stop_requested() as stop,
        TrainingProgress(task.name, loop.steps, first, write) as bar,
        metrics_path.open("a", encoding="utf-8", buffering=1) as metrics,
    ):
        while progress.step < loop.steps:
            step = progress.step
            torch.manual_seed(step_seed(loop.seed, task.name, step))
            figures = _take_step(task, step, loop, prepared, steppers, accelerator)
            progress.step = step + 1
            progress.seconds = before + time.monotonic() - started
            record: dict[str, Any] = {"step": progress.step, **figures}
            if progress.step % loop.validate_every == 0 or progress.step == loop.steps:
                record["validation"] = _validate(task, progress, raw)
            if accelerator.is_main_process:
                metrics.write(json.dumps({**record, "seconds": round(progress.seconds, 3)}) + "\n")
            bar.update(progress.step, (progress.step - first) * task.tokens(), _headline(figures, progress))
            out_of_patience = bool(loop.patience) and progress.stale >= loop.patience
            last = progress.step == loop.steps or out_of_patience
            if (progress.step % loop.checkpoint_every == 0 or stop.is_set()) and not last:
                if accelerator.is_main_process:
                    save_progress(resume_path, fingerprint, progress, raw, optimizers)
                if stop.is_set():
                    raise Interrupted(f"{task.name}: stopped at step {progress.step}")
            if out_of_patience:
                stopped = "patience"
                break
    _load_best(raw, progress)
    for module in raw.values():
        accelerator.unwrap_model(module, keep_fp32_wrapper=False)
    task.save(directory)
    accelerator.free_memory()
    return TrainingResult(
        progress.step, progress.best_step, progress.best_score, progress.seconds, stopped, stop.is_set()
    )


def _take_step(
    task: Task,
    step: int,
    loop: LoopSettings,
    players: Mapping[str, nn.Module],
    optimizers: Mapping[str, Any],
    accelerator: Accelerator,
) -> dict[str, float]:
    """One optimiser step of every player whose turn it is; returns the mean figures."""
    figures: dict[str, float] = {}
    for module in players.values():
        module.train()
    for turn in task.turns(step):
        settings, optimizer = task.optimizers[turn.player], optimizers[turn.player]
        rate = learning_rate(step, settings.learning_rate, loop)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        for part in range(loop.accumulation):
            with accelerator.autocast():
                loss, values = turn.loss(part)
            if not math.isfinite(float(loss.detach())):
                raise TrainingError(
                    f"{task.name}: the {turn.player}'s loss is {float(loss.detach())} at step {step + 1}; "
                    f"lower its learning rate (--teacher-rate, --student-rate) or train with --precision fp32"
                )
            accelerator.backward(loss / loop.accumulation)
            for name, value in {f"{turn.player}_loss": loss.detach(), **values}.items():
                figures[name] = figures.get(name, 0.0) + float(value) / loop.accumulation
        norm = accelerator.clip_grad_norm_(players[turn.player].parameters(), settings.clip_norm)
        figures[f"{turn.player}_gradient_norm"] = float(norm) if norm is not None else float("nan")
        optimizer.step()
    return figures


def _validate(task: Task, progress: Progress, players: Mapping[str, nn.Module]) -> dict[str, float]:
    """Validate, and remember the weights if they are the best so far."""
    for module in players.values():
        module.eval()
    with torch.no_grad():
        figures = dict(task.validate())
    if figures["score"] < progress.best_score:
        progress.best_score, progress.best_step, progress.stale = figures["score"], progress.step, 0
        progress.best = {
            f"{player}/{name}": parameter.detach().clone()
            for player, module in players.items()
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


def _headline(figures: Mapping[str, float], progress: Progress) -> dict[str, float]:
    """The few figures worth a place on one line."""
    shown = {name.removesuffix("_loss"): value for name, value in figures.items() if name.endswith("_loss")}
    headline = {"loss": next(iter(shown.values()))} if len(shown) == 1 else shown
    if progress.best_step >= 0:
        headline["best"] = progress.best_score
    return headline


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a request to stop after this step; a second one is immediate."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
