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
    "aio": ["AsyncGenerationStream"],
    "bundle": ["Bundle", "Manifest", "read_bundle"],
    "generator": ["Generation", "GenerationStream", "Generator", "Piece", "Score"],
    "options": ["Options"],
    "processors": ["LogitsProcessor"],
    "prompt_state": ["PromptState"],
    "sampling": ["SamplingParams"],
    "session": ["StepSession"],
    "tokenizer": ["Tokenizer"],
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used (PEP 562)."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
