"""ONNX Runtime: imported late, silenced first, and checked for what a model needs."""

import os
import re
from types import ModuleType
from typing import Any

from .errors import DependencyError, ProviderError
from .manifest import damaged

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Execution providers by the name users give them."""
_LOG_FATAL_ONLY = 4
_EXTERNAL_DATA = b"\n\x08location"
"""How a tensor whose weights lie in another file starts to say so (a protobuf key of 8 letters)."""


def load_onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry off, which the environment must say before the import.

    Raises:
        DependencyError: if it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        message = f"cannot import onnxruntime ({error}): pip install 'onnxruntime>=1.23'"
        raise DependencyError(message) from error
    module: ModuleType = onnxruntime
    return module


def available_provider(ort: ModuleType, provider: str) -> str:
    """The full name of an execution provider that this onnxruntime has.

    Raises:
        ProviderError: if the name is unknown or the provider is not part of the installed build.
    """
    name = PROVIDERS.get(provider)
    available = ort.get_available_providers()
    if name is None:
        raise ProviderError(f"unknown provider {provider!r}; known are {', '.join(PROVIDERS)}")
    if name not in available:
        hint = "pip install onnxruntime-gpu" if provider == "cuda" else "reinstall onnxruntime"
        raise ProviderError(
            f"provider {provider!r} is not in this onnxruntime ({', '.join(available)}): {hint}"
        )
    return name


def check_version(ort: ModuleType, floor: str) -> None:
    """Make sure that onnxruntime is at least of the version a model needs.

    Raises:
        DependencyError: if it is older.
    """
    if _version(ort.__version__) < _version(floor):
        raise DependencyError(
            f"the model needs onnxruntime {floor} or newer, this is {ort.__version__}: "
            f"pip install -U 'onnxruntime>={floor}'"
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def load_model(
    model: bytes, member: str, *, threads: int = 1, spinning: bool = False, provider: str = PROVIDERS["cpu"]
) -> Any:
    """An ``InferenceSession`` of a model of a bundle; ``member`` is its name there.

    Raises:
        BundleError: if it cannot be loaded, or is not all in one file.
        DependencyError: if onnxruntime is missing.
    """
    if _EXTERNAL_DATA in model:
        raise damaged(f"{member} keeps weights in another file, which is not allowed")
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_FATAL_ONLY  # errors come as exceptions
    options.enable_mem_pattern = False  # a plan is kept for every prompt length: memory that grows
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    try:
        # A fallback would try the same again, and print that it does.
        return ort.InferenceSession(model, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise damaged(f"{member}: onnxruntime cannot load it ({error})") from error
