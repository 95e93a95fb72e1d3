"""What "sample the next token" means here: the parameters, and the definition.

The step graph computes it, so that a device does not touch the vocabulary for every token; on the host, where
logits are changed before, `numpy_sampling` does.

Definition, all in float32. Take the ``top_k`` largest logits in descending order (of equal ones the lower id
first); ``p`` is the softmax of these over ``temperature`` and ``c`` its cumulative sum. Keep the prefix in
which ``c[i] - p[i] < top_p`` and ``p[i] >= min_p * p[0]``, at least one. With ``n`` kept and a uniform number
``u`` in [0, 1), the choice is the first ``i`` with ``c[i] > u * c[n - 1]``, the last of the ``n`` at most.

Sources: top-k, Fan et al. 2018; nucleus (top-p), Holtzman et al. 2020; min-p, Nguyen et al. 2024.
"""

import os
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .errors import BundleError, InputError
from .manifest import is_count, parse_json_object

FloatArray = np.ndarray[Any, np.dtype[np.float32]]  # not by numpy.typing, whose import takes time
IntArray = np.ndarray[Any, np.dtype[np.int64]]
AnyArray = np.ndarray[Any, np.dtype[Any]]

MOST_BY_DEFAULT = 1 << 20
"""Most tokens that a bundle may ask for by itself: a hostile one must not be able to go on for ever."""
_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 1e-3, 1e3
_LARGEST = 1e300  # no integer, however long, fails to be compared with it
_SMALLEST = float(np.finfo(np.float32).tiny)
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


def check_number(name: str, value: object, ok: bool, allowed: str) -> None:
    """Refuse a parameter that is not ``ok`` with an InputError naming it, its value and what is allowed."""
    if not ok:
        raise InputError(f"{name} is {value!r}; allowed is {allowed}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number (``bool`` does not count)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; 0 is greedy (always the likeliest token), else 0.001 to 1000.
        top_k: sample among the k likeliest tokens; 0 is all, and so is more than the vocabulary has.
        top_p: sample among the likeliest tokens that together reach this probability; (0, 1].
        min_p: drop tokens less likely than this share of the likeliest one; [0, 1).

    Raises:
        InputError: naming the parameter, its value and what is allowed.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Check every parameter."""
        t, k, p, m = self.temperature, self.top_k, self.top_p, self.min_p
        warm = is_number(t) and (t == 0 or _LOWEST_TEMPERATURE <= t <= _HIGHEST_TEMPERATURE)
        check_number("temperature", t, warm, "0 (greedy), or a number from 0.001 to 1000")
        check_number("top_k", k, is_count(k), "an integer of at least 0 (0: the whole vocabulary)")
        check_number("top_p", p, is_number(p) and 0 < p <= 1, "a number above 0 and up to 1 (1: no limit)")
        check_number("min_p", m, is_number(m) and 0 <= m < 1, "a number from 0 (no limit) to below 1")

    def resolve(self, vocab_size: int) -> "SamplingParams":
        """The same parameters as the graph takes them: greedy as top-k 1, top-k within the vocabulary."""
        if self.temperature == 0:
            return replace(self, temperature=1.0, top_k=1)
        return SamplingParams(
            temperature=self.temperature,
            top_k=min(self.top_k or vocab_size, vocab_size),
            top_p=max(self.top_p, _SMALLEST),  # neither may round to a value outside its range in float32
            min_p=min(self.min_p, _BELOW_ONE),
        )


def check_seed(seed: int | None) -> int:
    """The seed to use: the one given, or a fresh one (31 bits: short enough to note down).

    Raises:
        InputError: if it is not an integer from 0 to below 2**64.
    """
    if seed is None:
        return int.from_bytes(os.urandom(4), "little") >> 1
    check_number("seed", seed, is_count(seed) and seed < 1 << 64, "an integer from 0 to 2**64 - 1")
    return seed


@dataclass(frozen=True)
class GenerationDefaults:
    """What a model generates with when nothing else is asked for; the ``generation.json`` of a bundle.

    Attributes:
        sampling: how the next token is chosen.
        max_new_tokens: most tokens to generate, at least 1.
    """

    sampling: SamplingParams = SamplingParams()
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        """Check ``max_new_tokens``."""
        count = self.max_new_tokens
        check_number("max_new_tokens", count, is_count(count, 1), "an integer of at least 1")

    def override(
        self, *, max_new_tokens: int | None = None, **sampling: float | None
    ) -> "GenerationDefaults":
        """These settings with the ones that are not ``None`` replaced.

        Raises:
            InputError: if one is out of range.
        """
        given: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
        count = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        return GenerationDefaults(replace(self.sampling, **given), count)

    @classmethod
    def from_json(cls, data: bytes) -> "GenerationDefaults":
        """Read ``generation.json``.

        Raises:
            BundleError: if it is not JSON or has an unknown or invalid setting.
        """
        document = parse_json_object(data, "generation.json")
        known = {"max_new_tokens", *(f.name for f in fields(SamplingParams))}
        if unknown := sorted(set(document) - known):
            raise BundleError(
                f"generation.json: unknown settings {', '.join(unknown)}; known are {sorted(known)}"
            )
        try:
            defaults = cls().override(**document)
            most = defaults.max_new_tokens
            check_number("max_new_tokens", most, most <= MOST_BY_DEFAULT, f"1 to {MOST_BY_DEFAULT:,}")
            return defaults
        except InputError as error:
            raise BundleError(f"generation.json: {error}; export the bundle again") from error
