"""ONNX Runtime: imported late, silenced first, and checked for what a model needs."""

import os
import re
from types import ModuleType

from edgetext_runtime.errors import DependencyError, ProviderError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Execution providers by the name users give them."""


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
