"""Runs edgetext bundles (.etx) from pure Python: numpy and onnxruntime, nothing else, and no network.

    >>> from edgetext_runtime import Generator
    >>> generator = Generator.load("model.etx")
    >>> generator.generate("Return the", max_new_tokens=40, seed=1).text

Importing the package is cheap: numpy loads with the first name used, onnxruntime with the first model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    BundleError,
    DependencyError,
    EdgetextError,
    InputError,
    ProviderError,
    TokenizerError,
)

if TYPE_CHECKING:
    from .aio import AsyncGenerationStream
    from .bundle import Bundle, Manifest, read_bundle
    from .generator import (
        Generation,
        GenerationStream,
        Generator,
        Piece,
        Score,
    )
    from .options import Options
    from .processors import LogitsProcessor
    from .prompt_state import PromptState
    from .sampling import SamplingParams
    from .session import StepSession
    from .tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "AsyncGenerationStream",
    "Bundle",
    "BundleError",
    "DependencyError",
    "EdgetextError",
    "Generation",
    "GenerationStream",
    "Generator",
    "InputError",
    "LogitsProcessor",
    "Manifest",
    "Options",
    "Piece",
    "PromptState",
    "ProviderError",
    "SamplingParams",
    "Score",
    "StepSession",
    "Tokenizer",
    "TokenizerError",
    "read_bundle",
]

_HOMES = {
    "AsyncGenerationStream": "aio",
    "Bundle": "bundle",
    "Generation": "generator",
    "GenerationStream": "generator",
    "Generator": "generator",
    "LogitsProcessor": "processors",
    "Manifest": "bundle",
    "Options": "options",
    "Piece": "generator",
    "PromptState": "prompt_state",
    "SamplingParams": "sampling",
    "Score": "generator",
    "StepSession": "session",
    "Tokenizer": "tokenizer",
    "read_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
