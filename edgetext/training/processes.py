"""Several processes as one training: who they are, what they agree on, and the mean of their gradients.

One process or many give the same result at the same global batch: a step's batch is cut into
``accumulation × processes`` parts, every part has its own random seed, and gradients and figures are means
over all parts. Whatever decides what happens next (stop, keep these weights) is decided once, for all.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgetext.errors import ConfigError, EdgetextError, TrainingError
from edgetext.training.settings import Precision

Result = TypeVar("Result")

PATIENCE = timedelta(hours=24)
"""How long a process waits for the others: one of them may be reading a corpus or judging samples."""


def open_accelerator(precision: Precision) -> Accelerator:
    """Join the processes that were launched together (one, without a launcher).

    Works under ``accelerate launch`` and ``torchrun``, on accelerators and on CPUs. Raises ConfigError for
    a launch that cannot work.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    # Without this, processes launched on a machine without an accelerator take themselves for single ones.
    cpu = launched > 1 and not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if state.num_processes != launched:
        raise ConfigError(
            f"{launched} processes were launched but {state.num_processes} joined; start them with "
            f"accelerate launch --multi_gpu --num_processes {launched}, or with torchrun"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1"):
        raise ConfigError(
            "edgetext splits weights by itself: launch with --multi_gpu in place of --use_fsdp, and give "
            "edgetext --shard"
        )
    return Accelerator(
        cpu=cpu,
        mixed_precision=resolve_precision(precision, state.device),
        # Buffers are constants here; broadcasting them would write into what a backward pass still needs.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """Return accelerate's name for a precision: ``auto`` is bf16 where the device computes it, else fp32."""
    if precision != "auto":
        return {"fp32": "no", "bf16": "bf16"}[precision]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "no"


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence what torch says about things that are so on purpose, on every step's way."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated")
        # A Transformer's keys and values are views; nothing here writes into them.
        warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module .* returned a view tensor")
        yield


@contextmanager
def arithmetic(accelerator: Accelerator, *, exact: bool) -> Iterator[None]:
    """Prepare and run modules in float32 where `exact`, else in the accelerator's own precision."""
    before = accelerator.autocast_handler
    if exact:
        accelerator.autocast_handler = AutocastKwargs(enabled=False)
    try:
        yield
    finally:
        accelerator.autocast_handler = before


def is_main() -> bool:
    """Whether this is the process that speaks for all; the only one is."""
    return bool(PartialState().is_main_process)


def agreed(accelerator: Accelerator, value: Any) -> Any:
    """Return the main process's value, in every process."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


def by_main(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """Do something in the main process only, while the others wait; all get what it returns or raises.

    The result must be one that can be pickled. Of exceptions, those of edgetext are passed on.
    """
    if accelerator.num_processes == 1:
        return action()
    outcome: tuple[Result | None, EdgetextError | None] = (None, None)
    if accelerator.is_main_process:
        try:
            outcome = (action(), None)
        except EdgetextError as error:
            outcome = (None, error)
    result, problem = agreed(accelerator, outcome)
    if problem is not None:
        raise problem
    return result


def mean_figures(accelerator: Accelerator, figures: Mapping[str, float]) -> dict[str, float]:
    """Mean of each figure over the processes; all of them give the same names."""
    if accelerator.num_processes == 1:
        return dict(figures)
    names = sorted(figures)
    # float32: not every accelerator has doubles.
    values = torch.tensor([figures[name] for name in names], dtype=torch.float32, device=accelerator.device)
    return dict(zip(names, accelerator.reduce(values, "mean").tolist(), strict=True))


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in some process; the same answer in all."""
    return mean_figures(accelerator, {"flag": float(flag)})["flag"] > 0


@contextmanager
def gradients_apart(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Leave gradients unreduced: of all parts of a step but the last."""
    with ExitStack() as stack:
        for module in modules:
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield


class _Reach(torch.autograd.Function):
    """The loss, with every given parameter in its graph and no gradient for any of them."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (gradients[0], *[None] * ctx.count)


def reach_all(loss: Tensor, modules: Iterable[nn.Module]) -> Tensor:
    """Let the reducer of replicated modules hear of every parameter, whichever the loss depends on.

    DistributedDataParallel waits for all gradients; a loss on hidden states alone has none for the head.
    """
    replicated = [module for module in modules if isinstance(module, DistributedDataParallel)]
    parameters = [p for module in replicated for p in module.parameters() if p.requires_grad]
    if not parameters:
        return loss
    reached: Tensor = _Reach.apply(loss, *parameters)  # type: ignore[no-untyped-call]
    return reached


def check_replicas(accelerator: Accelerator, replicas: Mapping[str, nn.Module]) -> None:
    """Raise TrainingError if the copies of a replicated player have drifted apart."""
    if accelerator.num_processes == 1:
        return
    with torch.no_grad():
        sums = {
            name: sum(float(p.detach().float().abs().sum()) for p in module.parameters())
            for name, module in replicas.items()
        }
    everyone = gather_object([sums])
    for name, mine in sums.items():
        values = [other[name] for other in everyone]
        if max(values) - min(values) > 1e-5 * max(abs(mine), 1.0):
            raise TrainingError(
                f"the processes hold different weights of the {name} ({values}); its loss must be computed "
                f"with the module that the task was given in `prepare`"
            )
