"""Generation on a terminal: what ``python -m edgetext_runtime`` and ``edgetext generate`` have in common."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from .errors import BundleError, InputError
from .manifest import parse_json_object


def generate_to(
    output: TextIO,
    model: str | Path,
    prompt: str = "",
    *,
    threads: int | None = None,
    provider: str = "auto",
    as_json: bool = False,
    **settings: Any,
) -> None:
    """Load a bundle and write what it generates to ``output`` as it appears; ``"-"`` is a prompt on stdin.

    On a terminal, a line on speed and seed follows on stderr; with ``as_json`` one JSON line follows. The
    ``settings`` are those of ``Generator.generate``; ``json_schema`` may also be the path of a JSON file.

    Raises:
        EdgetextError: for whatever is wrong with the bundle, the prompt or a setting.
    """
    from .generator import Generator

    if isinstance(path := settings.get("json_schema"), str):
        settings["json_schema"] = _read_schema(path)
    _tolerate_narrow_encoding(output)
    shown = _visible if output.isatty() else str
    generator = Generator.load(model, threads="auto" if threads is None else threads, provider=provider)
    stream = generator.stream(_read_stdin() if prompt == "-" else prompt, **settings)
    for piece in stream:
        output.write(shown(piece))
        output.flush()
    output.write("\n")
    result = stream.result
    if as_json:
        output.write(json.dumps(asdict(result)) + "\n")
    output.flush()
    if output.isatty():
        later, timings = len(result.tokens) - 1, result.timings
        speed = f", {later / timings.decode_s:,.0f} tokens/s" if later > 0 and timings.decode_s > 0 else ""
        first = f"first after {timings.prefill_s * 1e3:.1f} ms"
        summary = f"{len(result.tokens)} tokens ({result.finish_reason}), {first}{speed}, seed {result.seed}"
        sys.stderr.write(summary + "\n")


def verify_to(
    output: TextIO, model: str | Path, *, threads: int | None = None, provider: str = "auto"
) -> bool:
    """Replay a bundle's golden tokens and write what came of it; return whether all were the same.

    Raises:
        EdgetextError: for whatever is wrong with the bundle.
    """
    from .generator import Generator

    generator = Generator.load(model, threads="auto" if threads is None else threads, provider=provider)
    failed = generator.verify()
    count = len(generator.golden)
    verdict = "gives" if not failed else f"does not give (in {len(failed)} of {count} cases)"
    output.write(f"{model} {verdict} its golden tokens on this machine: {count} cases replayed\n")
    return not failed


_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\ufffd") | {ord("\n"): "\n", ord("\t"): "\t"}


def _visible(text: str) -> str:
    """The text without control characters, which a terminal would obey."""
    return text.translate(_CONTROLS)


def _read_schema(path: str) -> dict[str, Any]:
    try:
        return parse_json_object(Path(path).read_bytes(), path)
    except (OSError, ValueError, BundleError) as error:
        raise InputError(
            f"json_schema: cannot read {path} ({error}); allowed is a file with a schema"
        ) from error


def _read_stdin() -> str:
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"prompt: stdin is not {sys.stdin.encoding} text ({error}); convert it") from error


def _tolerate_narrow_encoding(output: TextIO) -> None:
    """Show a replacement for what a terminal cannot, rather than stop in the middle of a text."""
    reconfigure = getattr(output, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")


def discard_stdout() -> None:
    """After a broken pipe (``… | head``): let the interpreter close stdout without complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
