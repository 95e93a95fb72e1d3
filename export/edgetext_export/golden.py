"""Golden cases: what a bundle generated where it was made, and whether it does so here."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetext_runtime import Generator
    from edgetext_runtime.generator import GoldenCase
    from edgetext_runtime.tokenizer import Tokenizer

NEW_TOKENS = 32
PROMPT_TOKENS = 8
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.0, "seed": 1},
    {"temperature": 1.0, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "seed": 2},
    {"temperature": 1.2, "top_k": 100, "top_p": 1.0, "min_p": 0.05, "seed": 3},
)
"""One greedy case, then every sampling parameter at work at least once."""

_ISA = (
    *("avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "amx_int8"),  # x86
    *("asimddp", "i8mm", "sve", "sve2", "sme"),  # ARM
)
"""CPU features by which onnxruntime chooses int8 kernels, as Linux names them."""


@dataclass(frozen=True)
class Replay:
    """One golden case, run again."""

    case: GoldenCase
    """What was recorded."""
    tokens: tuple[int, ...]
    """What came out now."""
    prompt_tokens: tuple[int, ...]
    """How the prompt is coded now."""

    @property
    def equal(self) -> bool:
        """Whether prompt and tokens are those recorded."""
        return self.prompt_tokens == self.case.prompt_tokens and self.tokens == self.case.tokens

    @property
    def first_difference(self) -> int | None:
        """Index of the first token that differs (or is missing on one side); None if the tokens are equal."""
        if self.tokens == self.case.tokens:
            return None
        pairs = zip(self.tokens, self.case.tokens, strict=False)
        shared = min(len(self.tokens), len(self.case.tokens))
        return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), shared)


def kernel() -> dict[str, Any]:
    """Machine and instruction sets that decide which int8 kernels run: golden tokens may depend on them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    flags: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            flags = set(value.split())
            break
    return {"machine": platform.machine(), "isa": [name for name in _ISA if name in flags]}


def record_golden(generator: Generator, stream: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """Generate the golden cases of a bundle; returns golden.json.

    Args:
        generator: the bundle's, as it will run (its own golden cases are not looked at).
        stream: token ids to take prompts from: the beginnings of its documents.
    """
    context = generator.manifest.context_length or 4 * NEW_TOKENS
    prompts = _prompts(generator.tokenizer, stream, max(1, min(PROMPT_TOKENS, context // 4)))
    new_tokens = max(1, min(NEW_TOKENS, context // 2))
    cases = []
    labels = generator.manifest.labels
    for number, (prompt, sampling) in enumerate(zip(prompts, SAMPLINGS, strict=False)):
        settings = sampling | {"max_new_tokens": new_tokens}
        if labels:
            settings["label"] = labels[number % len(labels)]
        result = generator.generate(prompt, **settings)
        ids = generator.tokenizer.encode(prompt)
        cases.append(
            {"prompt": prompt, "prompt_tokens": ids, "sampling": settings, "tokens": list(result.tokens)}
        )
    document = {"kernel": kernel(), "cases": cases}
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def replay(generator: Generator) -> list[Replay]:
    """Run the golden cases of a bundle again, here and now."""
    replays = []
    for case in generator.golden:
        ids = tuple(generator.tokenizer.encode(case.prompt))
        result = generator.generate(case.prompt, **case.settings)
        replays.append(Replay(case, tuple(result.tokens), ids))
    return replays


def recorded_kernel(generator: Generator) -> dict[str, Any]:
    """Machine and instruction sets that recorded the golden cases of a bundle (empty: not said)."""
    found = json.loads(generator.bundle.members["golden.json"]).get("kernel")
    return found if isinstance(found, dict) else {}


def _prompts(tokenizer: Tokenizer, stream: NDArray[np.unsignedinteger[Any]], length: int) -> list[str]:
    """Beginnings of different documents, as text; then empty prompts, so that there are always enough."""
    prompts: list[str] = []
    for ids in _document_starts(stream, tokenizer.eos_id, length):
        text = tokenizer.decode(ids).rstrip("\N{REPLACEMENT CHARACTER}")
        # A cut can fall inside a word or a character, so the text may be coded otherwise, and longer.
        if text.strip() and text not in prompts and len(tokenizer.encode(text)) <= 2 * length:
            prompts.append(text)
        if len(prompts) == len(SAMPLINGS):
            return prompts
    return prompts + [""] * (len(SAMPLINGS) - len(prompts))


def _document_starts(
    stream: NDArray[np.unsignedinteger[Any]], eos_id: int, length: int
) -> Iterator[list[int]]:
    """First `length` ids of documents spread over the stream; of any places if there are few documents."""
    ids = np.asarray(stream[:1_000_000], np.int64)
    starts = np.flatnonzero(ids == eos_id) + 1
    tries = 4 * len(SAMPLINGS)
    if len(starts) < len(SAMPLINGS):
        starts = np.arange(0, len(ids), max(1, len(ids) // tries))
    for start in starts[:: max(1, len(starts) // tries)]:
        chunk = ids[start : start + length]
        end = np.flatnonzero(chunk == eos_id)
        yield chunk[: end[0] if len(end) else None].tolist()
