"""Time of one step of students' graphs by recipe, random weights: ``python docs/results/step_times.py -o F``.

All graphs take turns in one process at one thread, sampling (top-k 40, top-p 0.95, temperature 0.8) included.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from edgetext.checkpoint import model_tensors
from edgetext.models import ModelConfig, build_model
from edgetext_export.budget import stand_in_tokenizer
from edgetext_export.bundle import bundle_manifest
from edgetext_export.graph import build_step_graph
from edgetext_export.recipes import RECIPES, Recipe
from edgetext_runtime.sampling import SamplingParams
from edgetext_runtime.session import StepSession
from edgetext_runtime.tokenizer import Tokenizer

STUDENT = ModelConfig("lstm", 2048, 128, 288, 1, tied=True)
LARGE = ModelConfig("lstm", 8192, 256, 512, 2, tied=True)
TRANSFORMER = ModelConfig(
    "transformer", 2048, 128, 128, 3, heads=4, kv_heads=2, ffn=320, context=256, tied=True
)
SHAPES = {
    "Transformer 3 × 128": TRANSFORMER,
    "LSTM 288": STUDENT,
    "GRU 320": replace(STUDENT, kind="gru", hidden=320),
    "LSTM 2 × 512": LARGE,
    "GRU 2 × 512": replace(LARGE, kind="gru"),
}
ROUNDS, STEPS, WARM_UP = 6, 220, 30
SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.95)


def recipes(kind: str) -> dict[str, Recipe]:
    """What a kind is measured in, by name."""
    names = ("fp32", "int8", "int4", *(("int8-cells", "int4-cells") if kind == "lstm" else ()))
    portable = {f"{name}, portable": RECIPES[name].as_portable() for name in ("fp32", "int8")}
    return {name: RECIPES[name] for name in names} | portable


def session(config: ModelConfig, recipe: Recipe) -> tuple[StepSession, int]:
    """A session at one thread, and the bytes of its model."""
    torch.manual_seed(0)
    weights = {name: tensor.numpy() for name, tensor in model_tensors(build_model(config)).items()}
    graph = build_step_graph(config, weights, recipe)
    tokenizer = Tokenizer.from_json(stand_in_tokenizer(config.vocab_size))
    manifest = bundle_manifest(config, graph, tokenizer, name="test", provenance={}, licence="none")
    return StepSession(graph.model, manifest), len(graph.model)


def measure() -> list[dict[str, Any]]:
    """Median microseconds of a step, of every shape in every recipe."""
    records: list[dict[str, Any]] = []
    for name, config in SHAPES.items():
        made = {recipe: session(config, how) for recipe, how in recipes(config.kind).items()}
        taken: dict[str, list[float]] = {recipe: [] for recipe in made}
        for _ in range(ROUNDS):
            for recipe, (steps, _) in made.items():
                state, token = steps.new_state(), 0
                for step in range(WARM_UP + STEPS):
                    begin = time.perf_counter()
                    token = steps.step(token, state, SAMPLING, 0.5)
                    if step >= WARM_UP:
                        taken[recipe].append(time.perf_counter() - begin)
        records += [
            {"shape": name, "recipe": recipe, "us": round(median(taken[recipe]) * 1e6, 1), "bytes": size}
            for recipe, (_, size) in made.items()
        ]
    return records


def main() -> None:
    """Print a table and write the record."""
    parser = argparse.ArgumentParser(description="Time of one step, by recipe.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    records = measure()
    output.write_text(json.dumps({"label": "measured", "steps": records}, indent=1) + "\n", encoding="utf-8")
    for record in records:
        print(
            f"{record['shape']:<21}{record['recipe']:<18}{record['us']:>8} µs{record['bytes'] / 1e6:>8.2f} MB"
        )


if __name__ == "__main__":
    main()
