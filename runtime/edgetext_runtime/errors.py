"""Everything edgetext raises on purpose, in one tree.

Each message says what was wrong, where, and the next step (the option to change, the pip command to run)::

    EdgetextError
    ├── BundleError
    ├── TokenizerError (ValueError)
    ├── InputError (ValueError)
    ├── ProviderError
    └── DependencyError (ImportError)

The workstation side (``edgetext.errors``) hangs its own branches under `EdgetextError`.
"""


class EdgetextError(Exception):
    """Base of every error edgetext raises on purpose; anything else is a bug in edgetext."""


class BundleError(EdgetextError):
    """A bundle that cannot be read or trusted: missing, damaged, too new, or not what its manifest says."""


class TokenizerError(EdgetextError, ValueError):
    """A tokenizer.json that is not understood, or text or ids that it cannot code."""


class InputError(EdgetextError, ValueError):
    """A parameter or a prompt out of range; the message names it, its value and what is allowed."""


class ProviderError(EdgetextError):
    """The requested execution provider is not available in this build of onnxruntime."""


class DependencyError(EdgetextError, ImportError):
    """A package that is needed and not installed; the message has the exact pip command."""
