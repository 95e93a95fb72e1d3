"""Gates: what an export must keep to, checked before a bundle gets its name."""

from __future__ import annotations

from dataclasses import dataclass, fields

from edgetext.errors import ConfigError, ExportError
from edgetext.evaluate.markdown import plain
from edgetext_export.parity import Parity

_FLAGS = {
    "max_mb": ("--max-mb", "size, MB"),
    "max_ms": ("--max-ms", "one token at one thread, ms"),
    "max_flip": ("--max-flip", "argmax flips, share"),
    "max_perplexity_increase": ("--max-perplexity-increase", "perplexity increase, share"),
}
"""Flag and meaning of every gate."""


@dataclass(frozen=True)
class Gates:
    """Upper limits; None is no limit."""

    max_mb: float | None = None
    """Of the whole bundle, 10⁶ bytes."""
    max_ms: float | None = None
    """Of one token, sampling and text included: the median, measured here at one thread."""
    max_flip: float | None = None
    """Of the argmax flip rate, the greater of the prompt's and the steps': 0.01 is one in a hundred."""
    max_perplexity_increase: float | None = None
    """Relative, against the torch model: 0.005 is half a per cent."""

    def __post_init__(self) -> None:
        """Check the limits. Raises ConfigError naming the flag."""
        for name, (flag, _) in _FLAGS.items():
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{flag} is {value}; it must not be negative")

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(getattr(self, field.name) is not None for field in fields(self))


def check_gates(gates: Gates, quality: Parity, bundle_bytes: int, ms_per_token: float | None) -> None:
    """Compare an export with its gates.

    Raises:
        ExportError: with a table of every gate, if one is missed.
    """
    measured = {
        "max_mb": bundle_bytes / 1e6,
        "max_ms": ms_per_token,
        "max_flip": max(quality.flip_rate_prompt, quality.flip_rate_step),
        "max_perplexity_increase": quality.perplexity_increase,
    }
    rows, missed = [], []
    for name, (flag, meaning) in _FLAGS.items():
        limit, value = getattr(gates, name), measured[name]
        if limit is None or value is None:
            continue
        outcome = "kept" if value <= limit else "missed"
        rows.append((flag, meaning, f"{value:.4g}", f"{limit:g}", outcome))
        missed += [flag] if value > limit else []
    if missed:
        table = plain("gates", [("flag", "what", "measured", "limit", "outcome"), *rows])
        raise ExportError(
            f"the export misses {', '.join(missed)}; nothing was written. Loosen the gate, or try another "
            f"--recipe\n{table}"
        )
