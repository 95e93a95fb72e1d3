"""Tokens per second of distillation from a cache, beside the live teacher it was made of.

    python docs/results/cache_throughput.py RUN CACHE TEACHER… [-o record.json] [--student SHAPE]

Both sides train the same student on the same rows of RUN's training split with soft targets; the live side
runs
the teachers (an ensemble, if several). They take turns; a figure is the median over the turns, in real
tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from edgetext.distill.cache import TargetCache
from edgetext.distill.recipes import RECIPES
from edgetext.distill.targets import CachedTargets, LiveTargets, Targets
from edgetext.distill.tasks import DistillTask
from edgetext.distill.teachers import load_teacher
from edgetext.evaluate.summary import processor
from edgetext.models import build_model
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.models.presets import resolve_model
from edgetext.training.data import DocumentSampler, WindowSampler, open_stream
from edgetext.training.loop import build_optimizer
from edgetext.training.processes import resolve_precision
from edgetext.training.settings import OptimizerSettings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("teachers", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--student", default="lstm,embedding=112,hidden=192,layers=1,tied=true")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    given = parser.parse_args()
    stream = open_stream(given.run / "data" / "train.npy")
    cache = TargetCache.open(given.cache)
    models = [load_teacher(path) for path in given.teachers]
    teacher = models[0] if len(models) == 1 else EnsembleGenerator(models)
    kind = DocumentSampler if cache.manifest.windows == "document" else WindowSampler
    sampler = kind(stream, given.length, given.batch_size, 0)
    bf16 = resolve_precision("auto", torch.device("cpu")) == "bf16"
    sides: dict[str, tuple[DistillTask, torch.optim.Optimizer]] = {}
    sources: dict[str, Targets] = {"live": LiveTargets(teacher), "cached": CachedTargets(cache)}
    for name, targets in sources.items():
        torch.manual_seed(0)
        student = build_model(resolve_model(given.student, teacher.config.vocab_size)).train()
        settings = OptimizerSettings(1e-2)
        task = DistillTask(name, student, RECIPES["hinton"], 10**6, sampler, [], settings, targets=targets,
                           teacher=teacher.config)  # fmt: skip
        task.prepare({**task.players, **task.frozen}, torch.device("cpu"))
        sides[name] = task, build_optimizer(student, settings)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(given.turns + 1):
        for name, (task, optimizer) in sides.items():
            started, tokens = time.perf_counter(), 0
            for step in range(turn * given.steps, (turn + 1) * given.steps):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss, _ = task.loss(step, 0)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
                optimizer.step()
                tokens += int(sampler.batch(step).mask.sum())
            if turn:
                rates[name].append(tokens / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:<7} {rate:>9,.0f} tokens/s")
    print(f"ratio   {medians['cached'] / medians['live']:>9.2f}")
    if given.output:
        record = {
            "label": "measured",
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "precision": "bf16" if bf16 else "fp32",
            "student": given.student,
            "teachers": [model.config.to_dict() for model in models],
            "top_k": cache.top_k,
            "batch_size": given.batch_size,
            "windows": cache.manifest.windows,
            "tokens_per_second": rates,
        }
        given.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
