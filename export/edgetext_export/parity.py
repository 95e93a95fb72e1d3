"""Does the exported graph say what the torch model says? Perplexity, argmax flips, logit errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetext.errors import ExportError
from edgetext_runtime.engine import StepBackend
from edgetext_runtime.sampling import SamplingParams

if TYPE_CHECKING:
    from edgetext.models.base import GeneratorModel
    from edgetext.training.data import Labels

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
TokenStream = NDArray[np.unsignedinteger[Any]]

FP32_TOLERANCE = 1e-3
"""Largest logit difference between torch and an fp32 graph that counts as the same model."""
PERPLEXITY_TOLERANCE = 0.05
"""Largest relative increase of perplexity with which a quantised model is still written."""
GREEDY_TOKENS = 256
"""Tokens written greedily with both, or as many as the context holds."""
BATCH, BATCH_WINDOW = 8, 16
"""Sequences of a batch, and tokens of each."""
_KINDER = {"int8": "--fp32", "fp16": "--fp32"}
"""What to export with where a recipe loses too much."""
_GREEDY = SamplingParams(temperature=0)
_UNIFORM = np.zeros(1, np.float32)


@dataclass(frozen=True)
class Parity:
    """An exported session against its torch model, on the same windows of a token stream."""

    tokens: int
    """Targets that the perplexities are means over."""
    perplexity_fp32: float
    """Of the torch model."""
    perplexity_exported: float
    """Of the exported graph, whole windows at a time."""
    flip_rate_prompt: float
    """Share of positions whose likeliest token differs from torch's, whole windows at a time."""
    flip_rate_step: float
    """The same, fed token by token."""
    step_tokens: int
    """Positions that `flip_rate_step` is a mean over."""
    max_logit_error: float
    """Largest absolute difference of a logit, over both ways of feeding."""
    mean_logit_error: float
    """Mean absolute difference of the logits, whole windows at a time."""
    greedy_tokens: int
    """Tokens that both wrote greedily from an empty text."""
    greedy_same: int
    """How many of them were the same before the first that differed."""
    batch_flip_rate: float
    """Share of positions whose likeliest token differs from torch's, `BATCH` sequences at once."""
    batch_max_logit_error: float
    """Largest absolute difference of a logit there."""
    windows: str = "stream"
    """What a window was: a piece of the ``stream``, or one ``document``."""

    @property
    def perplexity_increase(self) -> float:
        """Relative: 0.01 is one per cent more than torch."""
        return self.perplexity_exported / self.perplexity_fp32 - 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the record as quality.json holds it."""
        return {
            "split": "test",
            "windows": self.windows,
            "tokens": self.tokens,
            "perplexity": {"fp32": self.perplexity_fp32, "exported": self.perplexity_exported},
            "perplexity_increase": self.perplexity_increase,
            "flip_rate": {"prompt": self.flip_rate_prompt, "step": self.flip_rate_step},
            "step_tokens": self.step_tokens,
            "greedy": {"tokens": self.greedy_tokens, "same": self.greedy_same},
            "batch": {
                "size": BATCH,
                "flip_rate": self.batch_flip_rate,
                "max_logit_error": self.batch_max_logit_error,
            },
            "max_logit_error": self.max_logit_error,
            "mean_logit_error": self.mean_logit_error,
        }


def measure_parity(
    model: GeneratorModel,
    session: StepBackend,
    stream: TokenStream,
    *,
    windows: str = "stream",
    labels: Labels | None = None,
    limit: int = 20_000,
    step_limit: int = 512,
    suppressed: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Compare an exported session with its torch model on a token stream.

    Windows go through one at a time, as on a device: some kernels quantise activations over a whole batch.

    Args:
        model: the torch generator, in evaluation mode on the CPU.
        session: the exported step graph.
        stream: token ids; at least two.
        windows: consecutive pieces of the ``stream``, or one ``document`` after the other
            (`edgetext.training.data.evaluation_rows`).
        labels: of the documents, where the model is conditioned on one.
        limit: most targets to measure.
        step_limit: about how many positions to also feed token by token (whole windows).
        suppressed: ids that are never written, whatever the model makes of them.
        progress: called with (targets done, targets in all) after every window.

    Raises:
        ExportError: if the stream is too short.
    """
    rows = _rows(session, stream, windows, limit)
    total = int(rows[:, 1].sum())
    nll = np.zeros(2)
    done = flips = steps = step_flips = 0
    largest = summed = 0.0
    for start, length in rows.tolist():
        window = np.asarray(stream[start : start + length + 1], np.int64)
        tokens, targets = window[:-1], window[1:]  # [T]
        condition = labels.rows(np.array([start])).numpy() if labels else None  # [1,C]
        expected = reference_logits(model, tokens, condition)
        found = prompt_logits(session, tokens, condition)
        nll += negative_log_likelihood(expected, targets), negative_log_likelihood(found, targets)
        error = np.abs(expected - found)
        largest, summed = max(largest, float(error.max())), summed + float(error.mean(axis=1).sum())
        flips += _flips(expected, found)
        if steps < step_limit:
            found = step_logits(session, tokens, condition)
            largest = max(largest, float(np.abs(expected - found).max()))
            step_flips += _flips(expected, found)
            steps += len(targets)
        done += len(targets)
        if progress is not None:
            progress(done, total)
    perplexity = [math.exp(float(value) / done) if math.isfinite(value) else math.inf for value in nll]
    context = session.manifest.context_length or GREEDY_TOKENS
    written = greedy_tokens(model, session, min(GREEDY_TOKENS, context), suppressed)
    batch = _batch(model, session, stream)
    return Parity(
        tokens=done,
        perplexity_fp32=perplexity[0],
        perplexity_exported=perplexity[1],
        flip_rate_prompt=flips / done,
        flip_rate_step=step_flips / steps,
        step_tokens=steps,
        max_logit_error=largest,
        mean_logit_error=summed / done,
        greedy_tokens=written[0],
        greedy_same=written[1],
        batch_flip_rate=batch[0],
        batch_max_logit_error=batch[1],
        windows=windows,
    )


def flip_rate(
    model: GeneratorModel, session: StepBackend, stream: TokenStream, *, windows: str, limit: int
) -> float:
    """Share of positions whose likeliest token differs from torch's; arguments as of `measure_parity`.

    A conditioned model reads by its first label.
    """
    from edgetext.models.base import label_rows

    rows = _rows(session, stream, windows, limit)
    first, flips = label_rows(model.config, 1), 0
    condition = None if first is None else first.numpy()
    for start, length in rows.tolist():
        tokens = np.asarray(stream[start : start + length], np.int64)
        expected = reference_logits(model, tokens, condition)
        flips += _flips(expected, prompt_logits(session, tokens, condition))
    return flips / int(rows[:, 1].sum())


def check_parity(parity: Parity, recipe: str) -> None:
    """Refuse an export that is not the model it was made from; `recipe` is the name of how it is stored.

    Raises:
        ExportError: with the figures, if an fp32 graph differs from torch by `FP32_TOLERANCE` or more, or
            quantisation raises perplexity by more than `PERPLEXITY_TOLERANCE`.
    """
    figures = (
        f"largest logit error {parity.max_logit_error:.3g}, mean {parity.mean_logit_error:.3g}, "
        f"perplexity {parity.perplexity_fp32:.4g} in torch and {parity.perplexity_exported:.4g} exported, "
        f"over {parity.tokens} test tokens"
    )
    if not all(
        map(math.isfinite, (parity.max_logit_error, parity.perplexity_fp32, parity.perplexity_exported))
    ):
        raise ExportError(f"the model gives logits that are not finite ({figures}); train it again")
    if recipe == "fp32" and parity.max_logit_error >= FP32_TOLERANCE:
        raise ExportError(
            f"the fp32 graph is not the torch model: {figures}; the limit is {FP32_TOLERANCE:g}. "
            f"Please report this with the student's config.json"
        )
    if parity.perplexity_increase > PERPLEXITY_TOLERANCE:
        raise ExportError(
            f"{recipe} raises perplexity by {parity.perplexity_increase:.1%} ({figures}); "
            f"the limit is {PERPLEXITY_TOLERANCE:.0%}: export with {_KINDER.get(recipe, '--int8 or --fp32')}"
        )


def _rows(session: StepBackend, stream: TokenStream, windows: str, limit: int) -> IntArray:
    """Start and number of targets of every window to measure, [windows, 2]."""
    from edgetext.evaluate.likelihood import WINDOW
    from edgetext.training.data import evaluation_rows

    if len(stream) < 2:
        raise ExportError(
            "the split to measure on has fewer than two tokens, so nothing can be: use a larger corpus"
        )
    return evaluation_rows(stream, min(WINDOW, session.manifest.context_length or WINDOW), windows, limit)


def reference_logits(
    model: GeneratorModel, tokens: IntArray, condition: FloatArray | None = None
) -> FloatArray:
    """Logits [T,V] of the torch model for one sequence of tokens [T] and its condition [1,C]."""
    import torch

    from edgetext.models.base import begin

    given = None if condition is None else torch.from_numpy(condition)
    with torch.no_grad():
        logits: FloatArray = begin(model, torch.from_numpy(tokens)[None], given).logits[0].float().numpy()
    return logits


def prompt_logits(session: StepBackend, tokens: IntArray, condition: FloatArray | None = None) -> FloatArray:
    """Logits [T,V] of the graph for tokens [T] given at once."""
    state = session.new_state(1, condition)
    positions = np.arange(len(tokens))
    result = session.run(
        tokens[None], state, sampling=_GREEDY, uniform=_UNIFORM, positions=positions, want_logits=True
    )
    return _present(result.logits)[0]


def step_logits(session: StepBackend, tokens: IntArray, condition: FloatArray | None = None) -> FloatArray:
    """Logits [T,V] of the graph for tokens [T] given one by one."""
    state = session.new_state(1, condition)
    rows = [
        session.run(token.reshape(1, 1), state, sampling=_GREEDY, uniform=_UNIFORM, want_logits=True).logits
        for token in tokens
    ]
    return np.concatenate([_present(row)[0] for row in rows])


def greedy_tokens(
    model: GeneratorModel, session: StepBackend, count: int, suppressed: Sequence[int] = ()
) -> tuple[int, int]:
    """Write `count` tokens greedily with both; returns their number and how many agree at the beginning.

    A conditioned model writes by its first label.
    """
    import torch

    from edgetext.models.base import State, begin, label_rows

    first = label_rows(model.config, 1)
    state = session.new_state(1, None if first is None else first.numpy())
    past: State | None = None
    ours = theirs = session.manifest.eos_id
    for same in range(count):
        token = torch.tensor([[theirs]])
        with torch.no_grad():
            output = model(token, past) if past else begin(model, token, first)
        past, logits = output.state, output.logits[0, -1].float()
        logits[list(suppressed)] = -torch.inf
        theirs = int(logits.argmax())
        ours = session.step(ours, state, _GREEDY, 0.0)
        if ours != theirs:
            return count, same
    return count, count


def _batch(model: GeneratorModel, session: StepBackend, stream: TokenStream) -> tuple[float, float]:
    """Flip rate and largest logit error of `BATCH` pieces of the stream at once, by the labels in turn."""
    import torch

    from edgetext.models.base import begin, label_rows

    length = max(1, min(BATCH_WINDOW, len(stream) // BATCH))
    tokens = np.resize(np.asarray(stream[: BATCH * length], np.int64), (BATCH, length))
    condition = label_rows(model.config, BATCH)
    with torch.no_grad():
        expected = begin(model, torch.from_numpy(tokens), condition).logits.float().numpy()  # [B,T,V]
    result = session.run(
        tokens,
        session.new_state(BATCH, None if condition is None else condition.numpy()),
        sampling=_GREEDY,
        uniform=np.zeros(BATCH, np.float32),
        positions=np.arange(length),
        want_logits=True,
    )
    found = _present(result.logits)
    flips = float((expected.argmax(-1) != found.argmax(-1)).mean())
    return flips, float(np.abs(expected - found).max())


def negative_log_likelihood(logits: FloatArray, targets: IntArray) -> float:
    """Sum over positions of -log softmax(logits [T,V])[targets [T]], in float64."""
    wide = logits.astype(np.float64)
    peak = wide.max(axis=1)
    normaliser = peak + np.log(np.exp(wide - peak[:, None]).sum(axis=1))
    return float((normaliser - wide[np.arange(len(targets)), targets]).sum())


def _present(logits: FloatArray | None) -> FloatArray:
    if logits is None:
        raise ExportError("the session gave no logits though they were asked for")
    return logits


def _flips(expected: FloatArray, found: FloatArray) -> int:
    return int((expected.argmax(axis=1) != found.argmax(axis=1)).sum())
