"""``python -m edgetext_runtime MODEL.etx "prompt"``: stream a text to stdout, with the runtime alone."""

import argparse
import json
import sys
from collections.abc import Sequence

from . import EdgetextError, __version__
from .console import discard_stdout, generate_to, verify_to

_OPTIONS: Sequence[tuple[str, type, str, str]] = (
    ("max-new-tokens", int, "N", "most tokens to generate"),
    ("temperature", float, "T", "0 is greedy; lower is safer"),
    ("top-k", int, "K", "sample among the K likeliest tokens; 0: all"),
    ("top-p", float, "P", "sample among the likeliest that reach P"),
    ("min-p", float, "P", "drop tokens less likely than P of the likeliest"),
    ("min-new-tokens", int, "N", "tokens before the text may end"),
    ("typical-p", float, "P", "sample tokens of typical surprise that reach P"),
    ("repetition-penalty", float, "R", "above 1: fewer repetitions"),
    ("presence-penalty", float, "A", "off the logits of tokens in the text"),
    ("frequency-penalty", float, "B", "the same, for every time they occur"),
    ("no-repeat-ngram-size", int, "N", "no N tokens in a row twice"),
    ("num-beams", int, "N", "beam search with N beams"),
    ("length-penalty", float, "A", "its exponent of length (default: 1)"),
    ("best-of", int, "N", "one of N texts"),
    ("label", str, "NAME", "what the text should be: a label of the bundle"),
    ("label-strength", float, "S", "above 1: further from other labels"),
    ("regex", str, "PATTERN", "write a full match of PATTERN"),
    ("json-schema", str, "FILE", "write a JSON document of the schema in FILE"),
    ("seed", int, "N", "give the same text again; default: a fresh one"),
    ("threads", int, "N", "threads; default: what is fastest here"),
)
_CHOICES: Sequence[tuple[str, Sequence[str], str]] = (
    ("choose-by", ["likelihood", "top", "resample"], "which of the best-of texts"),
    (
        "context-policy",
        ["error", "truncate_left", "slide"],
        "when a text outgrows the model's context (default: error)",
    ),
    (
        "provider",
        ["auto", "cpu", "cuda", "numpy"],
        "where to run; default: onnxruntime's cpu, or numpy where it is missing",
    ),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m edgetext_runtime",
        description="Continue a prompt with the text generator in a bundle.",
        epilog="Sampling options that are not given are the bundle's own. 'bench MODEL.etx' measures.",
    )
    p.add_argument("model", metavar="MODEL.etx", help="a bundle, or a folder with its members")
    p.add_argument("prompt", nargs="?", default="", help="text to continue; '-' reads stdin")
    for name, kind, metavar, text in _OPTIONS:
        p.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)
    for name, choices, text in _CHOICES:
        p.add_argument(f"--{name}", choices=choices, help=text)
    p.set_defaults(provider="auto", stop=[])
    for name, into, text in (
        ("bad-word", "bad_words", "never write TEXT"),
        ("choice", "choices", "write one of these"),
        ("stop", "stop", "end before TEXT"),
    ):
        p.add_argument(f"--{name}", action="append", dest=into, metavar="TEXT", help=f"{text}; repeatable")
    p.add_argument("--logprobs", action="store_true", default=None, help="log-probabilities in the JSON line")
    p.add_argument("--json", action="store_true", dest="as_json", help="one JSON line at the end")
    p.add_argument(
        "--verify", action="store_true", help="replay the golden tokens instead; exit 1 if they differ"
    )
    p.add_argument("--version", action="version", version=f"edgetext-runtime {__version__}")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, 1 for an error, 130 after Ctrl-C."""
    options = vars(parser().parse_args(arguments))
    try:
        where = {name: options[name] for name in ("threads", "provider")}
        if options["model"] == "bench" and options["prompt"]:
            from .bench import figures

            where = {name: value for name, value in where.items() if value is not None}
            print(json.dumps(figures(options["prompt"], **where)))
            return 0
        if options.pop("verify"):
            return 0 if verify_to(sys.stdout, options["model"], **where) else 1
        generate_to(sys.stdout, options.pop("model"), options.pop("prompt"), **options)
    except EdgetextError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        discard_stdout()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
