"""Checkpoint to verified, quantised bundle: `export_run`. Importing the package loads no torch, no onnx."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgetext_runtime.errors import DependencyError

if TYPE_CHECKING:
    from edgetext_export.bundle import ExportReport, export_run
    from edgetext_export.golden import Replay, kernel, recorded_kernel, replay
    from edgetext_export.graph import StepGraph, build_step_graph
    from edgetext_export.parity import Parity, measure_parity

__all__ = [
    "ExportReport",
    "Parity",
    "Replay",
    "StepGraph",
    "build_step_graph",
    "export_run",
    "kernel",
    "measure_parity",
    "recorded_kernel",
    "replay",
]

_HOMES = {
    "ExportReport": "bundle",
    "Parity": "parity",
    "Replay": "golden",
    "StepGraph": "graph",
    "build_step_graph": "graph",
    "export_run": "bundle",
    "kernel": "golden",
    "measure_parity": "parity",
    "recorded_kernel": "golden",
    "replay": "golden",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "torch", "safetensors"):
            raise
        raise DependencyError(f"exporting needs {error.name}: pip install 'edgetext[train]'") from error
    return getattr(module, name)
