"""``python -m edgetext_runtime MODEL.etx "prompt"``: stream a text to stdout, with the runtime alone."""

import argparse
import json
import sys
from collections.abc import Sequence

from . import EdgetextError, __version__
from .console import discard_stdout, generate_to, verify_to


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m edgetext_runtime",
        description="Continue a prompt with the text generator in a bundle.",
        epilog="Sampling options that are not given are the bundle's own. 'bench MODEL.etx' measures.",
    )
    p.add_argument("model", metavar="MODEL.etx", help="a bundle, or a folder with its members")
    p.add_argument("prompt", nargs="?", default="", help="text to continue; '-' reads stdin")
    p.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens to generate")
    p.add_argument("--temperature", type=float, metavar="T", help="0 is greedy; lower is safer")
    p.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0: all")
    p.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest that reach P")
    p.add_argument("--min-p", type=float, metavar="P", help="drop tokens less likely than P of the likeliest")
    _add_host_options(p)
    p.add_argument("--seed", type=int, metavar="N", help="give the same text again; default: a fresh one")
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; repeatable")
    p.add_argument("--threads", type=int, metavar="N", help="threads; default: what is fastest here")
    p.add_argument(
        "--provider",
        choices=["auto", "cpu", "cuda", "numpy"],
        default="auto",
        help="where to run; default: onnxruntime's cpu, or numpy where it is missing",
    )
    p.add_argument("--json", action="store_true", dest="as_json", help="one JSON line at the end")
    p.add_argument(
        "--verify", action="store_true", help="replay the golden tokens instead; exit 1 if they differ"
    )
    p.add_argument("--version", action="version", version=f"edgetext-runtime {__version__}")
    return p


def _add_host_options(p: argparse.ArgumentParser) -> None:
    """What is decided on the host rather than in the graph."""
    p.add_argument("--min-new-tokens", type=int, metavar="N", help="tokens before the text may end")
    p.add_argument(
        "--typical-p", type=float, metavar="P", help="sample tokens of typical surprise that reach P"
    )
    p.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: fewer repetitions")
    p.add_argument("--presence-penalty", type=float, metavar="A", help="off the logits of tokens in the text")
    p.add_argument("--frequency-penalty", type=float, metavar="B", help="the same, for every time they occur")
    p.add_argument("--no-repeat-ngram-size", type=int, metavar="N", help="no N tokens in a row twice")
    p.add_argument(
        "--bad-word", action="append", dest="bad_words", metavar="TEXT", help="never write TEXT; repeatable"
    )
    p.add_argument("--num-beams", type=int, metavar="N", help="beam search with N beams")
    p.add_argument("--length-penalty", type=float, metavar="A", help="its exponent of length (default: 1)")
    p.add_argument("--best-of", type=int, metavar="N", help="one of N texts")
    p.add_argument("--choose-by", choices=["likelihood", "top", "resample"], help="which of them")
    p.add_argument(
        "--choice", action="append", dest="choices", metavar="TEXT", help="write one of these; repeatable"
    )
    p.add_argument("--regex", metavar="PATTERN", help="write a full match of PATTERN")
    p.add_argument("--json-schema", metavar="FILE", help="write a JSON document of the schema in FILE")
    p.add_argument("--logprobs", action="store_true", default=None, help="log-probabilities in the JSON line")
    p.add_argument(
        "--context-policy",
        choices=["error", "truncate_left", "slide"],
        help="when a text outgrows the model's context (default: error)",
    )


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
