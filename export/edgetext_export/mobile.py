"""For phones: the model in onnxruntime's own format, what a custom build needs, and who would run it.

The files lie beside the bundle, not in it: an application on a reduced onnxruntime reads the model through
that library and not through edgetext's runtime, and every other device would carry the weights twice.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgetext.errors import ExportError
from edgetext.evaluate.markdown import table
from edgetext_export.delivery import check_replay, scratch_folder
from edgetext_export.recipes import Target
from edgetext_runtime.bundle import Bundle, Manifest
from edgetext_runtime.generator import Generator
from edgetext_runtime.manifest import STATE_DTYPES

_MODEL, _OPERATORS, _REPORT = ".ort", ".required_operators_and_types.config", ".mobile.md"
SUFFIXES = (_MODEL, _OPERATORS, _REPORT)
"""Of the files beside a bundle: model, operators for a custom build, report."""
_BY_ROW = {"Gather": (0,), "GatherBlockQuantized": (0, 2), "GroupQueryAttention": (7, 8)}
"""Inputs of which a token reads one row only: tables, their scales, rotary angles."""
_LISTS = {
    "CoreML, ML Program": "coreml_supported_mlprogram_ops.md",
    "CoreML, neural network": "coreml_supported_neuralnetwork_ops.md",
}
"""onnxruntime's lists of operators, for the two kinds of CoreML models."""


@dataclass(frozen=True)
class Usability:
    """What onnxruntime's checker says of one accelerator, shapes taken as fixed: the kindest case."""

    accelerator: str
    operators: int
    """Nodes of the graph."""
    accepted: int
    """Nodes that the accelerator could take."""
    pieces: int
    """Parts of the graph that they form; between two of them everything goes through the CPU."""
    verdict: str
    """The checker's own: ``NO``, ``MAYBE`` or ``YES``."""
    refused: tuple[str, ...]
    """Operators that it does not know."""


@dataclass(frozen=True)
class Mobile:
    """The files for a phone, not yet written."""

    model: bytes
    """In onnxruntime's format, optimised, as a build without an optimiser loads it."""
    operators: bytes
    """Operators and types the model needs: ``--include_ops_by_config`` of a custom build."""
    usability: tuple[Usability, ...]
    weight_bytes_per_token: int
    """Weights that one step of one sequence reads, tables by the row."""
    state_bytes: int
    """State of one sequence; of a key/value cache when it is full."""

    def files(self, bundle: Path, onnx_bytes: int) -> dict[Path, bytes]:
        """Content of every file beside the bundle, by path."""
        report = write_report(self, bundle.name, onnx_bytes).encode()
        return dict(zip(mobile_paths(bundle), (self.model, self.operators, report), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {
            "ort_bytes": len(self.model),
            "weight_bytes_per_token": self.weight_bytes_per_token,
            "state_bytes": self.state_bytes,
            "usability": {
                one.accelerator: {
                    "accepted": one.accepted,
                    "operators": one.operators,
                    "pieces": one.pieces,
                    "verdict": one.verdict,
                }
                for one in self.usability
            },
        }


def mobile_paths(bundle: Path) -> tuple[Path, ...]:
    """Paths of the files beside a bundle, in the order of `SUFFIXES`."""
    stem = bundle.stem if bundle.suffix == ".etx" else bundle.name
    return tuple(bundle.with_name(stem + suffix) for suffix in SUFFIXES)


def checked_mobile(manifest: Manifest, members: Mapping[str, bytes], target: Target = "generic") -> Mobile:
    """Convert a model with onnxruntime's own converter, and ask its checker what accelerators would do.

    Args:
        manifest: of the bundle.
        members: its members; the converted model must give the golden tokens among them.
        target: CPUs it is for; ``arm64`` lets the converter use what only these have.

    Raises:
        ExportError: if onnxruntime's converter fails, with its last line, or the golden tokens differ.
    """
    shapes = [(entry.concrete_shape(1, manifest.context_length), entry.dtype) for entry in manifest.state]
    state_bytes = sum(math.prod(shape) * STATE_DTYPES[dtype] for shape, dtype in shapes)
    phone = _make(members["model.onnx"], state_bytes, target)
    converted = Bundle(manifest, {**members, "model.onnx": phone.model}, "")
    check_replay(Generator(converted, threads=1, provider="cpu"), "converted to .ort")
    return phone


def _make(model: bytes, state_bytes: int, target: Target) -> Mobile:
    """Convert, check, count."""
    with scratch_folder() as folder:
        source, out = folder / "model.onnx", folder / "out"
        source.write_bytes(model)
        _convert(source, out, target)
        optimised = out / "model.optimized.onnx"
        return Mobile(
            model=(out / f"model{_MODEL}").read_bytes(),
            operators=(out / f"model{_OPERATORS}").read_bytes(),
            usability=tuple(_usability(optimised)),
            weight_bytes_per_token=weight_bytes_per_token(optimised.read_bytes()),
            state_bytes=state_bytes,
        )


def _convert(source: Path, out: Path, target: Target) -> None:
    """Run the converter as a process of its own: it prints, and sets up logging for the whole program."""
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(source)]
    command += ["--output_dir", str(out), "--optimization_style", "Fixed"]
    command += ["--enable_type_reduction", "--save_optimized_onnx_model"]
    command += ["--target_platform", "arm"] if target == "arm64" else []
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ExportError(f"onnxruntime's converter to .ort failed: {last}; export without --mobile")


def _usability(path: Path) -> Iterator[Usability]:
    """What onnxruntime's checker finds for each accelerator."""
    from onnxruntime.tools.mobile_helpers import usability_checker as checker

    model = onnx.load(path)
    found = {"NNAPI (Android)": checker.check_nnapi_partitions(model, False)}
    for accelerator, operators in _LISTS.items():
        found[accelerator] = checker.check_coreml_partitions(model, False, operators)
    for accelerator, info in found.items():
        yield Usability(
            accelerator=accelerator,
            operators=info.num_nodes,
            accepted=info.num_supported_nodes,
            pieces=info.num_partitions,
            verdict=info.suitability().name,
            refused=tuple(sorted(name.removeprefix("ai.onnx:") for name in info.unsupported_ops)),
        )


def weight_bytes_per_token(model: bytes) -> int:
    """Bytes of weights that one step of one sequence reads: whole matrices, and one row of what is looked up.

    Args:
        model: a step graph, best as a session holds it: with its constants folded.
    """
    graph = onnx.load_from_string(model).graph
    whole: set[str] = set()
    looked_up: set[str] = set()
    for node in _nodes(graph):
        rows = _BY_ROW.get(node.op_type, ())
        looked_up.update(name for index, name in enumerate(node.input) if index in rows)
        whole.update(name for index, name in enumerate(node.input) if index not in rows)
    total = 0
    for tensor in graph.initializer:
        size = len(tensor.raw_data) or onnx.numpy_helper.to_array(tensor).nbytes
        if tensor.name in whole:
            total += size
        if tensor.name in looked_up:
            total += size // max(1, tensor.dims[0])
    return total


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def write_report(mobile: Mobile, bundle: str, onnx_bytes: int) -> str:
    """Return the report in Markdown: the advice first, then what it rests on."""
    model, operators, _ = (path.name for path in mobile_paths(Path(bundle)))
    rows = [
        (one.accelerator, f"{one.accepted} of {one.operators}", str(one.pieces), one.verdict.lower())
        for one in mobile.usability
    ]
    refused = sorted({name for one in mobile.usability for name in one.refused})
    sections = [
        f"# {bundle} on a phone",
        _advice(mobile),
        "What onnxruntime's own checker finds (operators counted in the optimised graph, all shapes taken as "
        "fixed, which is the kindest case):",
        table(("accelerator", "operators it could take", "in pieces", "use it?"), rows),
        "At every border between pieces all numbers go from the accelerator to the CPU and back, for every "
        "token. Left to the CPU by at least one of them: " + ", ".join(refused) + ".",
        "## Bytes per token",
        f"One token reads **{mobile.weight_bytes_per_token:,} bytes of weights** (tables by the row) and, of "
        f"its own text, up to {mobile.state_bytes:,} bytes of state. Over a memory that delivers B bytes a "
        f"second it cannot take less than {mobile.weight_bytes_per_token:,} / B seconds (modelled: a bound, "
        f"not a measurement).",
        f"## Files beside {bundle}, which is for edgetext's runtime",
        table(
            ("file", "bytes", "what it is"),
            [
                (
                    model,
                    f"{len(mobile.model):,}",
                    "the same graph in onnxruntime's format, for a custom build",
                ),
                (operators, f"{len(mobile.operators):,}", "what to build: --include_ops_by_config"),
            ],
        ),
        _size(len(mobile.model), onnx_bytes),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _advice(mobile: Mobile) -> str:
    worth = [one.accelerator for one in mobile.usability if one.verdict != "NO"]
    if worth:
        return (
            f"**Start with the CPU provider, and measure {' and '.join(worth)} against it**: onnxruntime's "
            f"checker does not rule {'them' if len(worth) > 1 else 'it'} out."
        )
    nowhere = set.intersection(*(set(one.refused) for one in mobile.usability))
    heavy = sorted(name for name in nowhere if name.startswith("com.microsoft:") or name == "LSTM")
    lacking = f" Neither NNAPI nor CoreML has {', '.join(heavy)}." if heavy else ""
    return (
        f"**Use the CPU provider.** onnxruntime's checker advises against the others.{lacking} They would "
        f"hand every step to the CPU and back several times, and be slower for it."
    )


def _size(ort_bytes: int, onnx_bytes: int) -> str:
    """Why the .ort may be larger than model.onnx."""
    if ort_bytes < 1.05 * onnx_bytes:
        return ""
    return (
        f"The .ort is larger than model.onnx ({onnx_bytes:,} bytes) because a reduced build has no "
        "optimiser: what a full onnxruntime computes from the weights when it loads (a table in the two "
        "shapes that looking up and multiplying want, 4 bits widened to 8) is stored."
    )
