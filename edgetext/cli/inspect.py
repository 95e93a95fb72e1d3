"""``edgetext inspect``: what is inside a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgetext_runtime.bundle import Bundle


@click.command(short_help="Show what is inside a bundle.")
@click.argument("model", metavar="MODEL.etx", type=click.Path(path_type=str))
@click.option("--json", "as_json", is_flag=True, help="One JSON line with everything at the end.")
def command(model: str, as_json: bool) -> None:
    """Show manifest, members, state, graph, quantisation, quality and provenance of MODEL.etx.

    The graph is shown as nodes by operator and bytes of the weights by group.

    Sizes and hashes are checked on the way; the model is not run.
    """
    from edgetext_runtime.bundle import read_bundle

    bundle = read_bundle(model)
    document = _document(bundle)
    click.echo(
        "\n\n".join(
            [f"{model}\nsha256 of the manifest, which names the content: {bundle.sha256}", *_tables(document)]
        )
    )
    if as_json:
        click.echo(json.dumps(document))


def _document(bundle: Bundle) -> dict[str, Any]:
    """Manifest, default sampling, quality and a summary of the golden cases, as plain JSON values."""
    from edgetext_export.writer import manifest_json

    golden = json.loads(bundle.members["golden.json"])
    return {
        "sha256": bundle.sha256,
        "manifest": json.loads(manifest_json(bundle.manifest)),
        "generation": json.loads(bundle.members["generation.json"]),
        "quality": json.loads(bundle.members["quality.json"]),
        "graph": _graph(bundle.members["model.onnx"]),
        "golden": {"cases": len(golden["cases"]), "kernel": golden.get("kernel", {})},
    }


def _graph(model: bytes) -> dict[str, Any]:
    """Nodes by operator, and bytes of the weights by group; loops and 4-bit weights take onnx to read."""
    from collections import Counter

    from edgetext_runtime.errors import BundleError
    from edgetext_runtime.onnx_reader import read_graph

    try:
        graph = read_graph(model)
        operators = [f"{node.domain}.{node.operator}" for node in graph.nodes]
        weights = [(name, array.nbytes) for name, array in graph.constants.items()]
    except BundleError:
        operators, weights = _read_by_onnx(model)
    sizes: Counter[str] = Counter()
    for name, size in weights:
        sizes[_group(name)] += size
    counts = Counter(name.lstrip(".") for name in operators)
    return {"operators": dict(counts.most_common()), "bytes": dict(sizes.most_common())}


def _read_by_onnx(model: bytes) -> tuple[list[str], list[tuple[str, int]]]:
    """Operators (those inside loops too) and sizes of the weights by name; nothing where onnx is missing."""
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx import GraphProto, load_from_string
    except ImportError:
        return [], []

    def operators(graph: GraphProto) -> list[str]:
        found = [f"{node.domain}.{node.op_type}" for node in graph.node]
        bodies = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
        return found + [name for body in bodies for name in operators(body)]

    try:
        graph = load_from_string(model).graph
    except DecodeError:
        return [], []
    return operators(graph), [(tensor.name, len(tensor.raw_data)) for tensor in graph.initializer]


def _group(name: str) -> str:
    """The part of the model that a weight belongs to: numbers of layers do not count."""
    words = [word for word in name.split(".") if not word.isdigit()]
    scales = words[-1] == "scales"
    plain = [word for word in words if word not in ("weight", "scales", "bias", "factors")]
    return ".".join(plain[:3]) + (" (scales)" if scales else "")


def _tables(document: Mapping[str, Any]) -> list[str]:
    from edgetext.evaluate.markdown import plain

    manifest = document["manifest"]
    apart = ("members", "state", "quantisation", "provenance", "config")
    members = [
        ("member", "bytes", "sha256"),
        *((name, f"{record['size']:,}", record["sha256"]) for name, record in manifest["members"].items()),
    ]
    state = [
        ("input", "output", "shape", "dtype", "kind"),
        *(
            (s["input"], s["output"], " × ".join(map(str, s["shape"])), s["dtype"], s["kind"])
            for s in manifest["state"]
        ),
    ]
    standard = "operators" in manifest["quantisation"]
    portable = "yes, ONNX's standard operators only" if standard else "no, onnxruntime's own operators too"
    pairs = {"manifest": {name: value for name, value in manifest.items() if name not in apart}}
    pairs["manifest"] |= {"portable": portable}
    pairs |= {name: _used(manifest[name]) for name in ("config", "quantisation", "provenance")}
    pairs |= {name: document[name] for name in ("graph", "generation", "quality", "golden")}
    return [
        plain("members", members),
        plain("state", state),
        *(plain(name, _flat(values)) for name, values in pairs.items()),
    ]


def _used(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested objects without what shapes of models leave unused: no heads in an LSTM, no dropout here."""
    kept = {name: _used(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    if "kind" not in kept:
        return kept
    recurrent = ("rope_theta", "norm_eps") if kept["kind"] in ("lstm", "gru") else ()
    unused = ("dropout", *recurrent)
    return {name: value for name, value in kept.items() if name not in unused and (value or value is False)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested objects as rows with dotted names."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, _words(value)))
    return rows


def _words(value: Any) -> str:
    """A JSON value for people."""
    match value:
        case None | {} | []:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.5g}"
        case list():
            return ", ".join(map(_words, value))
    return str(value)
