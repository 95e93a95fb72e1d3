"""Greedy tokens of a run's student in torch, in its native fp32 graph and in its portable one, side by side.

    python docs/results/greedy_identity.py RUN [RUN …] -o greedy.json

Every text is written to its 256th token: one from nothing, others from the beginnings of test documents.
The portable graph also runs in ONNX's reference evaluator and, where it is installed, in OpenVINO.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch

from edgetext.checkpoint import load_model
from edgetext_export import export_run
from edgetext_runtime import Generator, Manifest
from edgetext_runtime.sampling import SamplingParams

LENGTH, PROMPT, TEXTS = 257, 8, 8
"""Tokens of a text with the end of text it begins from, of the part that is given, and texts begun so."""
GREEDY = {"temperature": np.ones(1), "top_k": np.ones(1, np.int64), "top_p": np.ones(1), "min_p": np.zeros(1)}
Step = Callable[[list[int]], int]
"""Takes the tokens that are new to it, gives the next one."""


def torch_step(run: Path, suppressed: tuple[int, ...]) -> Step:
    """Steps of the checkpoint, from a fresh state."""
    model, state = load_model(run / "student"), None

    def step(tokens: list[int]) -> int:
        nonlocal state
        with torch.no_grad():
            output = model(torch.tensor([tokens]), state)
        state, logits = output.state, output.logits[0, -1]
        logits[list(suppressed)] = -torch.inf
        return int(logits.argmax())

    return step


def runtime_step(generator: Generator) -> Step:
    """Steps of a bundle in this project's runtime, from a fresh state."""
    state = generator.session.new_state()

    def step(tokens: list[int]) -> int:
        result = generator.session.run(
            np.array([tokens]), state, sampling=SamplingParams(temperature=0), uniform=np.zeros(1, np.float32)
        )
        return int(result.next_token[0])

    return step


def foreign_step(run: Callable[[dict[str, Any]], dict[str, Any]], manifest: Manifest) -> Step:
    """Steps of a portable graph in another runtime: inputs by name in, outputs by name out."""
    state = {s.input: np.zeros(s.concrete_shape(1, manifest.context_length)) for s in manifest.state}
    seen = 0

    def step(tokens: list[int]) -> int:
        nonlocal state, seen
        feeds = GREEDY | state | {"uniform": np.zeros(1)}
        feeds = {n: x.astype(np.float32) if x.dtype == np.float64 else x for n, x in feeds.items()}
        feeds |= {"tokens": np.array([tokens]), "positions": np.array([len(tokens) - 1])}
        if manifest.has_cache:
            feeds["past_length"] = np.array([seen])
        seen += len(tokens)
        results = run(feeds)
        state = {s.input: np.array(results[s.output]) for s in manifest.state}
        return int(results["next_token"][0, 0])

    return step


def reference(model: bytes) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A portable graph in ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(model)
    return lambda feeds: dict(zip(session.output_names, session.run(None, feeds), strict=True))


def openvino(model: bytes) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A portable graph in OpenVINO, computed in float32 and not in what the CPU has that is faster."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model=model)
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        results = compiled(feeds)
        return {port.any_name: value for port, value in results.items()}

    return run


def write(step: Step, prompt: list[int]) -> list[int]:
    """What follows a prompt, until there are `LENGTH` tokens with it."""
    written, given = [], prompt
    while len(prompt) + len(written) < LENGTH:
        given = [step(given)]
        written += given
    return written


def compare(run: Path) -> dict[str, Any]:
    """How many of a student's greedy tokens are the same as torch's, by system."""
    with TemporaryDirectory() as folder:
        native = Generator.load(export_run(run, Path(folder) / "native.etx", "fp32").path)
        path = export_run(run, Path(folder) / "portable.etx", "fp32", portable=True).path
        portable = Generator.load(path)
    domains = {
        node.domain for node in onnx.load_from_string(portable.bundle.members["model.onnx"]).graph.node
    }
    manifest, model = portable.manifest, portable.bundle.members["model.onnx"]
    systems: dict[str, Callable[[], Step]] = {
        "native graph": lambda: runtime_step(native),
        "portable graph": lambda: runtime_step(portable),
        "portable graph, reference evaluator": lambda: foreign_step(reference(model), manifest),
    }
    try:
        in_openvino = openvino(model)
        systems["portable graph, OpenVINO"] = lambda: foreign_step(in_openvino, manifest)
    except ImportError:
        pass
    stream = np.load(run / "data" / "test.npy")
    starts = np.flatnonzero(stream == manifest.eos_id)
    starts = starts[:: max(1, len(starts) // TEXTS)][:TEXTS]
    prompts = [[manifest.eos_id], *(stream[start : start + PROMPT].tolist() for start in starts)]
    suppressed = portable.tokenizer.suppressed
    expected = [write(torch_step(run, suppressed), prompt) for prompt in prompts]
    same = {}
    for name, make in systems.items():
        texts = [write(make(), prompt) for prompt in prompts]
        pairs = [zip(*pair, strict=True) for pair in zip(texts, expected, strict=True)]
        same[name] = sum(ours == theirs for pair in pairs for ours, theirs in pair)
    return {
        "run": run.name,
        "kind": manifest.architecture,
        "parameters": manifest.parameters,
        "texts": len(prompts),
        "tokens": sum(map(len, expected)),
        "distinct": len({token for text in expected for token in text}),
        "opset": manifest.opset,
        "domains": sorted(domains),
        "same": same,
    }


def main() -> None:
    """Print a table and write the record."""
    parser = argparse.ArgumentParser(description="Greedy tokens of torch, native and portable graphs.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    records = [compare(run) for run in arguments.runs]
    arguments.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    for record in records:
        print(f"{record['kind']}, {record['parameters']:,} parameters, {record['texts']} texts")
        for name, count in record["same"].items():
            print(f"  {name:<36} {count} of {record['tokens']} tokens as torch")


if __name__ == "__main__":
    main()
