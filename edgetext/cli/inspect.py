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
    """Show manifest, members, state, quantisation, quality and provenance of MODEL.etx.

    Sizes and hashes are checked on the way; the model is not run.
    """
    from edgetext_runtime.bundle import read_bundle

    bundle = read_bundle(model)
    document = _document(bundle)
    click.echo("\n\n".join([f"{model}\nsha256 {bundle.sha256}", *_tables(document)]))
    if as_json:
        click.echo(json.dumps(document))


def _document(bundle: Bundle) -> dict[str, Any]:
    """Manifest, default sampling, quality and a summary of the golden cases, as plain JSON values."""
    golden = json.loads(bundle.members["golden.json"])
    return {
        "sha256": bundle.sha256,
        "manifest": json.loads(bundle.manifest.to_json()),
        "generation": json.loads(bundle.members["generation.json"]),
        "quality": json.loads(bundle.members["quality.json"]),
        "golden": {"cases": len(golden["cases"]), "kernel": golden.get("kernel", {})},
    }


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
    pairs = {"manifest": {name: value for name, value in manifest.items() if name not in apart}}
    pairs |= {name: manifest[name] for name in ("config", "quantisation", "provenance")}
    pairs |= {name: document[name] for name in ("generation", "quality", "golden")}
    return [
        plain("members", members),
        plain("state", state),
        *(plain(name, _flat(values)) for name, values in pairs.items()),
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested objects as rows with dotted names."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return rows
