"""Errors of the training side, all below the one tree that the runtime draws.

EdgetextError                (edgetext_runtime.errors)
├── ConfigError              an option or a pair of options that cannot work (also a ValueError)
├── CorpusError              a corpus that cannot be read or split; names file, line and remedy
├── TrainingError            a training that has left the numbers (a loss that is not finite)
├── CheckpointError          a checkpoint or run directory that is missing, incomplete or does not fit
├── ExportError              a model that cannot be exported, or an export that failed its checks
└── HubError                 the Hugging Face Hub refuses, or cannot be reached
"""

from __future__ import annotations

from edgetext_runtime.errors import EdgetextError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "EdgetextError",
    "ExportError",
    "HubError",
    "TrainingError",
]


class ConfigError(EdgetextError, ValueError):
    """An option, or a pair of options, that cannot work; the message names the flag to change."""


class CorpusError(EdgetextError):
    """A corpus that cannot be read, decoded or split; the message names file, line and remedy."""


class CheckpointError(EdgetextError):
    """A checkpoint or run directory that is missing, incomplete, or does not fit its configuration."""


class TrainingError(EdgetextError):
    """A training that cannot go on: its loss is not finite; the message names the step and what to change."""


class ExportError(EdgetextError):
    """A model that cannot be exported, or an export that failed its own checks."""


class HubError(EdgetextError):
    """The Hugging Face Hub refuses, has no such repository, or cannot be reached."""
