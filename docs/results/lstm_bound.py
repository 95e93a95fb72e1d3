"""An LSTM bundle against the bandwidth of memory and against torch's dynamically quantised LSTM, in turns.

``python docs/results/lstm_bound.py MODEL.etx [-o RECORD.json]``. Every round takes, one after the other:

- *edgetext*: ``Generator.generate`` of 200 tokens, top-k 40, top-p 0.95, temperature 0.8; the time of a token
  after the first, everything included;
- *torch*: a loop around an LSTM of the same shape whose LSTM and Linear layers went through
  ``quantize_dynamic`` (qint8), sampling likewise, random weights: speed does not depend on them;
- *read*: the largest of as many bytes as one token reads weights, as float32 (numpy, one thread): what memory
  gives, and so the least that a token can take.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgetext_bench.script import parser, run
from edgetext_export.mobile import weight_bytes_per_token
from edgetext_runtime import Generator, InputError, SamplingParams

TOKENS = 200
SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.95)
READS = 200


class TorchLstm(nn.Module):
    """What `edgetext.models.lstm` computes, out of torch's own layers."""

    def __init__(self, vocab_size: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.down, self.head = nn.Linear(hidden, embedding), nn.Linear(embedding, vocab_size)

    def forward(self, token: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
        """Logits [V] after one token, and the state."""
        hidden, state = self.lstm(self.embedding(token), state)
        return self.head(self.down(hidden))[0, -1], state


def choose(logits: Tensor) -> Tensor:
    """Sample one of the top k that reach top p."""
    values, ids = logits.topk(SAMPLING.top_k)
    p = (values / SAMPLING.temperature).softmax(-1)
    p = p.masked_fill(p.cumsum(-1) - p >= SAMPLING.top_p, 0.0)
    return ids[torch.multinomial(p, 1)]


@torch.no_grad()
def torch_us(model: nn.Module) -> float:
    """Microseconds per token after the first."""
    logits, state = model(torch.zeros(1, 1, dtype=torch.int64), None)
    token = choose(logits)
    began = perf_counter()
    for _ in range(TOKENS - 1):
        logits, state = model(token[None], state)
        token = choose(logits)
    return (perf_counter() - began) / (TOKENS - 1) * 1e6


def edgetext_us(generator: Generator, seed: int) -> float:
    """The same of the bundle, through the public API."""
    text = generator.generate("", max_new_tokens=TOKENS, seed=seed, **asdict(SAMPLING))
    if len(text.tokens) < TOKENS // 2:
        raise InputError(f"the model ended its text after {len(text.tokens)} tokens; give one hardly trained")
    return text.timings.decode_s / (len(text.tokens) - (text.finish_reason == "length")) * 1e6


def read_us(block: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Microseconds to read the bytes of one token, the median of many times in a row."""
    samples = []
    for _ in range(READS):
        began = perf_counter()
        np.maximum.reduce(block)
        samples.append(perf_counter() - began)
    return median(samples) * 1e6


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds."""
    torch.set_num_threads(1)
    generator = Generator.load(options.model, threads=1, provider="cpu")
    config = generator.manifest.config
    if generator.manifest.architecture != "lstm":
        raise InputError(f"{options.model} is no LSTM")
    shape = tuple(config[name] for name in ("embedding", "hidden", "layers"))
    plain = TorchLstm(generator.manifest.vocab_size, *shape).eval()
    judge = torch.ao.quantization.quantize_dynamic(plain, {nn.LSTM, nn.Linear}, dtype=torch.qint8)
    size = weight_bytes_per_token(generator.bundle.members["model.onnx"])
    block = np.random.default_rng(0).random(size // 4, np.float32)
    samples: dict[str, list[float]] = {"edgetext": [], "torch": [], "read": []}
    for number in range(options.rounds + 1):
        found = {"edgetext": edgetext_us(generator, number), "torch": torch_us(judge), "read": read_us(block)}
        if number:  # the first is to warm up
            for name, value in found.items():
                samples[name].append(value)
    return {
        "bundle": Path(options.model).name,
        "shape": dict(zip(("embedding", "hidden", "layers"), shape, strict=True)),
        "weight_bytes_per_token": size,
        "us": samples,
    }


def table(record: Mapping[str, Any]) -> str:
    """The figures for people."""
    us = {name: median(values) for name, values in record["us"].items()}
    size = record["weight_bytes_per_token"]
    return "\n".join(
        [
            "| | µs per token, median | |",
            "|---|--:|---|",
            f"| edgetext | {us['edgetext']:.1f} | {us['read'] / us['edgetext']:.0%} of the bound |",
            f"| torch, dynamic int8 | {us['torch']:.1f} | {us['torch'] / us['edgetext']:.2f} × as long |",
            f"| reading {size:,} bytes | {us['read']:.1f} | {size / us['read'] / 1e3:.1f} GB/s |",
        ]
    )


def main() -> int:
    """The command line."""
    made = parser("docs/results/lstm_bound.py", __doc__)
    made.prog = "python docs/results/lstm_bound.py"
    made.add_argument("model", help="an LSTM bundle")
    made.add_argument("--rounds", type=int, default=11)
    return run(made, measure, table)


if __name__ == "__main__":
    sys.exit(main())
