"""Everything a training needs to go on as if it had never stopped, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from edgetext.checkpoint import load_tensors, save_tensors, write_atomic
from edgetext.errors import CheckpointError
from edgetext.training.sharding import like, whole

RESUME_FILE = "resume.safetensors"


@dataclass
class Progress:
    """Where a training stands, beside the weights."""

    step: int = 0
    """Optimiser steps done."""
    best_score: float = float("inf")
    """Lowest validation score so far."""
    best_step: int = -1
    """Step of the best score; -1 before the first validation."""
    stale: int = 0
    """Validations since the best one."""
    seconds: float = 0.0
    """Training time so far, over all processes that worked on it."""
    rollbacks: int = 0
    """Times that the training went back to its best state."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights at the best step, by name."""


def save_progress(
    path: Path,
    fingerprint: str,
    progress: Progress,
    players: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    *,
    main: bool = True,
) -> None:
    """Write the resumable state atomically; a kill at any moment leaves the old file or the new one.

    Of several processes all must call, and the `main` one writes. Sharded tensors are written whole: the
    file does not depend on the number of processes.
    """
    tensors: dict[str, Tensor] = {f"best/{name}": tensor for name, tensor in progress.best.items()}
    for player, module in players.items():
        for name, parameter in module.named_parameters():
            tensors[f"weights/{player}/{name}"] = parameter
        for name, buffer in module.named_buffers():
            tensors[f"buffers/{player}/{name}"] = buffer
    for player, optimizer in optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"optimizer/{player}/{index}/{key}"] = torch.as_tensor(value)
    scalars = {k: v for k, v in vars(progress).items() if k != "best"}
    gathered = {}
    for (
        name,
        tensor,
    ) in tensors.items():  # one after another to the host, so that a device holds one at a time
        value = whole(tensor.detach())
        if main:
            gathered[name] = value.cpu()
    if main:
        save_tensors(path, gathered, {"fingerprint": fingerprint, "progress": json.dumps(scalars)})


def load_progress(
    path: Path,
    fingerprint: str,
    players: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> Progress:
    """Restore what `save_progress` wrote, in place. Raises CheckpointError if the settings differ."""
    tensors, metadata = load_tensors(path)
    if metadata.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{path} was made with other settings or another corpus; resume with the same options, "
            f"or start again with --force"
        )
    progress = Progress(**json.loads(metadata["progress"]))
    forms = {f"{player}/{name}": p for player, m in players.items() for name, p in m.named_parameters()}
    progress.best = {name: like(tensor, forms[name]) for name, tensor in _under(tensors, "best/").items()}
    with torch.no_grad():
        for player, module in players.items():
            weights, buffers = _under(tensors, f"weights/{player}/"), _under(tensors, f"buffers/{player}/")
            for name, parameter in module.named_parameters():
                parameter.copy_(like(weights[name], parameter))
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
    for player, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for name, value in _under(tensors, f"optimizer/{player}/").items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = like(value, parameters[int(index)])
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return progress


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries below a prefix, with the prefix taken off."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def trim_metrics(path: Path, step: int) -> None:
    """Drop records after `step` from a metrics.jsonl, so that a resumed run writes each step once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            break  # the line that a kill cut in half
    write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
