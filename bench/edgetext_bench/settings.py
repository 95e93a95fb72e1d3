"""What a measurement is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from edgetext_runtime.errors import InputError
from edgetext_runtime.sampling import SamplingParams
from edgetext_runtime.session import MOST_THREADS

FEWEST_SAMPLES = 100
"""A 99th percentile of fewer latencies than this is the maximum by another name."""
MOST_BATCH = 256
MOST_SUSTAINED_S = 86_400


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Raises:
        InputError: naming the setting, its value and what is allowed.
    """

    threads: tuple[int, ...] = (1, 2)
    """Thread counts, each measured on its own; more than there are cores is allowed, and noted."""
    tokens: int = 200
    """Tokens to decode per round."""
    repeats: int = 5
    """Rounds; and fresh processes for the start-up times."""
    prompt: str = "Once upon a time"
    """The prompt; longer ones are made of its repetitions."""
    prompt_lengths: tuple[int, ...] = (16, 64, 256)
    """Tokens of longer prompts, made of repetitions; each at most half of the context."""
    depths: tuple[int, ...] = (64, 256)
    """Tokens before the steps whose time is taken there; those that do not fit the context are left out."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    """Sequences that take a step together."""
    sustained_s: float = 0.0
    """Seconds of decoding without a pause after the rounds; 0 is none."""
    providers: tuple[str, ...] = ("cpu",)
    """Where to run: ``"cpu"``, ``"cuda"`` or ``"numpy"``; threads are for the first and the last only."""
    pin: bool = False
    """Whether a process is held to the first as many processors as it has threads."""
    temperature: float = 0.8
    """Sampling temperature."""
    top_k: int = 40
    """Sampling among the k likeliest tokens; 0 is all."""
    top_p: float = 0.95
    """Sampling among the likeliest tokens that together reach this probability."""
    seed: int = 0
    """Seed of the first generation."""
    warmup_rounds: int = 6
    """Most rounds to warm up; it ends earlier once two rounds agree within ``warmup_tolerance``."""
    warmup_tolerance: float = 0.05
    """Relative difference of the median token latency of two rounds that counts as settled."""

    def __post_init__(self) -> None:
        """Check every setting."""
        sizes = [*self.prompt_lengths, *self.depths, *self.batches]
        counts = [*self.threads, *sizes, self.tokens, self.repeats, self.warmup_rounds]
        if any(isinstance(count, bool) or not isinstance(count, int) for count in counts):
            raise InputError(f"threads, tokens, repeats and other counts must be integers, got {counts}")
        if not self.threads or not all(1 <= count <= MOST_THREADS for count in self.threads):
            given = ",".join(map(str, self.threads))
            raise InputError(
                f"threads is {given!r}; allowed are counts from 1 to {MOST_THREADS} (--threads 1,2)"
            )
        if len(set(self.threads)) != len(self.threads):
            raise InputError(f"threads names a count twice: {self.threads}; give each once (--threads 1,2)")
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats}; allowed is 1 or more (--repeats 5)")
        if self.tokens < 2 or self.tokens * self.repeats < FEWEST_SAMPLES:
            raise InputError(
                f"tokens is {self.tokens} and repeats is {self.repeats}: a 99th percentile needs at least "
                f"{FEWEST_SAMPLES} tokens in all; raise --tokens or --repeats"
            )
        if min([*sizes, self.warmup_rounds]) < 1 or max([0, *self.batches]) > MOST_BATCH:
            raise InputError(
                "prompt_lengths, depths, batches and warmup_rounds must be 1 or more, and batches at most "
                f"{MOST_BATCH} (--prompt-lengths 16,64 --depths 64,256 --batches 1,8)"
            )
        if not 0 <= self.sustained_s <= MOST_SUSTAINED_S:
            raise InputError(
                f"sustained_s is {self.sustained_s}; allowed are 0 to {MOST_SUSTAINED_S} (--sustained 60)"
            )
        if not self.providers or not set(self.providers) <= {"cpu", "cuda", "numpy"}:
            raise InputError(f"providers are {self.providers}; allowed are cpu, cuda and numpy")
        SamplingParams(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
