"""What a condition costs a step: python step_cost.py OUT.json.

int8 graphs of the default students with random weights, with two labels and without, one thread. All take
turns: in each of 60 rounds every graph decodes 200 tokens; a graph's figure is the median of its rounds'
medians, and a ratio is that of the two graphs in the same round.
"""

import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgetext.checkpoint import model_tensors
from edgetext.models import ModelConfig, build_model
from edgetext.models.presets import resolve_model
from edgetext_export import build_step_graph
from edgetext_runtime.manifest import Manifest
from edgetext_runtime.sampling import SamplingParams
from edgetext_runtime.session import StepSession

PRESETS = ("lstm-student", "gru-student", "transformer-student")
ROUNDS, STEPS, VOCABULARY = 60, 200, 2048
SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.95)


def session_of(config: ModelConfig) -> StepSession:
    """A step graph of a shape, in int8."""
    torch.manual_seed(0)
    weights = {name: tensor.numpy() for name, tensor in model_tensors(build_model(config)).items()}
    graph = build_step_graph(config, weights, "int8")
    manifest = Manifest(
        name="cost",
        created_by="step_cost",
        architecture=config.kind,
        config=config.to_dict(),
        precision=graph.precision,
        quantisation=graph.quantisation,
        parameters=config.parameters(),
        vocab_size=config.vocab_size,
        context_length=config.context or None,
        special_tokens={"eos": 0, "pad": 1, "unk": None},
        opset=graph.opset,
        ort_floor="1.23",
        state=graph.state,
        provenance={},
        licence="none",
    )
    return StepSession(graph.model, manifest)


def median_us(session: StepSession, random: np.random.Generator) -> float:
    """Microseconds of a step: the median of one stretch."""
    state = session.new_state(1, np.eye(2, dtype=np.float32)[1] if session.manifest.labels else None)
    token, samples = 0, []
    draws = random.random(STEPS).tolist()
    limit = session.manifest.context_length or STEPS
    for draw in draws[: min(STEPS, limit)]:
        start = time.perf_counter_ns()
        token = session.step(token, state, SAMPLING, draw)
        samples.append(time.perf_counter_ns() - start)
    return statistics.median(samples[10:]) / 1000


def main(out: str) -> None:
    """Measure every preset with and without labels, in turns."""
    sessions = {
        (name, labels): session_of(replace(resolve_model(name, VOCABULARY), labels=labels))
        for name in PRESETS
        for labels in ((), ("negative", "positive"))
    }
    random = np.random.default_rng(0)
    samples: dict[tuple[str, tuple[str, ...]], list[float]] = {key: [] for key in sessions}
    for number in range(ROUNDS):
        order = list(sessions) if number % 2 else list(reversed(sessions))
        for key in order:
            samples[key].append(median_us(sessions[key], random))
    record = {"label": "measured", "rounds": ROUNDS, "steps": STEPS, "vocabulary": VOCABULARY, "rows": []}
    for name in PRESETS:
        plain, conditioned = (samples[name, labels] for labels in ((), ("negative", "positive")))
        ratios = [b / a for a, b in zip(plain, conditioned, strict=True)]
        row = {
            "preset": name,
            "plain_us": plain,
            "conditioned_us": conditioned,
            "ratio": statistics.median(ratios),
        }
        record["rows"].append(row)
        low, high = np.quantile(ratios, (0.25, 0.75))
        medians = " and ".join(f"{statistics.median(part):.1f} µs" for part in (plain, conditioned))
        print(
            f"{name}, without and with labels: {medians}, ratio {row['ratio']:.3f} ({low:.3f} to {high:.3f})"
        )
    Path(out).write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
