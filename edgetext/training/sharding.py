"""Weights split over processes (fully sharded data parallel, Zhao et al. 2023), gathered where they are used.

A sharded module computes what the whole one would: each block's weights are gathered just before it runs
and dropped after it, in the backward pass as well; gradients and optimiser state exist only as shards.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Split a module's weights over all processes, in place, block by block; returns the module.

    Blocks are the members of its module lists. All processes must hold the same weights. Everything trained
    must then be used inside the module's own forward. A module that is split already is left as it is.
    """
    if isinstance(module, FSDPModule):
        return module
    mesh = _mesh(accelerator)
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    blocks = [block for members in lists for block in members if any(True for _ in block.children())]
    for block in reversed(blocks):  # inner ones before those around them
        if any(True for _ in block.parameters()) and not isinstance(block, FSDPModule):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # The root as well: weights left gathered after a validation would be stale after the next step.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return module


def place_frozen(module: nn.Module, accelerator: Accelerator, *, split: bool = False) -> nn.Module:
    """Place a module that is read but not trained (a teacher): evaluation mode, no gradients.

    With `split` its weights are spread over the processes, which leaves room beside a large teacher; every
    process must then call it the same number of times.
    """
    module.eval().requires_grad_(False)
    return shard(module, accelerator) if split else module.to(accelerator.device)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; of a sharded one every process must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """Return a whole value in the form of `tensor`: this process's shard of it, or all of it.

    The main process's value counts; every process must ask at once.
    """
    if not isinstance(tensor, DTensor) or value.shape != tensor.shape:
        return value
    value = value.to(device=tensor.device, dtype=tensor.dtype)
    return distribute_tensor(value, tensor.device_mesh, tensor.placements)


def gather_into(sharded: Mapping[str, nn.Module], plain: Mapping[str, nn.Module]) -> None:
    """Copy the weights of sharded modules into whole ones of the same names."""
    with torch.no_grad():
        for name, module in sharded.items():
            targets = dict(plain[name].named_parameters())
            for key, parameter in module.named_parameters():
                targets[key].copy_(whole(parameter))


def _mesh(accelerator: Accelerator) -> DeviceMesh:
    """All processes in one row."""
    return init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
