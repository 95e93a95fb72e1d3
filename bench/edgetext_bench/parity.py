"""The same seed, the same tokens: threads, backends and, under emulation, another instruction set.

``python -m edgetext_bench.parity MODEL.etx… [--on emulated:aarch64]``. Every bundle generates a list of cases
(greedy and sampled, several prompts and seeds) at 1 and 2 threads with onnxruntime and with numpy; on an
emulated machine the same is done by :mod:`edgetext_bench.emulated`. All are compared with onnxruntime at one
thread here. ``--collect`` prints the tokens of one process as JSON, which is what runs over there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetext_bench.script import parser, run
from edgetext_runtime import Generator

PROMPTS = ("", "Return the", "class ", "The ", "x = [1, ")
_Tokens = list[list[int]]


def collect(path: Path, *, provider: str, threads: int, cases: int, tokens: int) -> _Tokens:
    """The tokens of every case: of each prompt the greedy text, then sampled ones."""
    generator = Generator.load(path, provider=provider, threads=threads)
    texts: _Tokens = []
    for number in range(cases):
        temperature = 0.0 if number < len(PROMPTS) else None
        prompt = PROMPTS[number % len(PROMPTS)]
        result = generator.generate(prompt, seed=number, max_new_tokens=tokens, temperature=temperature)
        texts.append(list(result.tokens))
    return texts


def ways(threads: Sequence[int] = (1, 2)) -> list[tuple[str, int]]:
    """Backends with the numbers of threads they are tried with."""
    return [*(("cpu", count) for count in threads), ("numpy", 1)]


def collect_all(paths: Sequence[Path], *, cases: int, tokens: int) -> dict[str, dict[str, _Tokens]]:
    """By bundle and way, the tokens."""
    return {
        path.name: {
            f"{provider}, {threads}": collect(
                path, provider=provider, threads=threads, cases=cases, tokens=tokens
            )
            for provider, threads in ways()
        }
        for path in paths
    }


def compare(reference: Mapping[str, _Tokens], found: Mapping[str, _Tokens]) -> dict[str, dict[str, int]]:
    """For every way, how many cases and tokens there are, and how many cases differ from the reference."""
    expected, result = reference["cpu, 1"], {}
    for way, texts in found.items():
        pairs = list(zip(expected, texts, strict=True))
        count = len(PROMPTS)
        result[way] = {
            "cases": len(texts),
            "tokens": sum(map(len, texts)),
            "greedy_differ": sum(one != other for one, other in pairs[:count]),
            "sampled_differ": sum(one != other for one, other in pairs[count:]),
        }
    return result


def _table(record: Mapping[str, Any]) -> str:
    lines = [
        "| bundle | machine | backend, threads | cases | tokens | greedy differ | sampled differ |",
        "| --- | --- | --- | --: | --: | --: | --: |",
    ]
    for entry in record["results"]:
        for way, found in entry["ways"].items():
            figures = [found[name] for name in ("cases", "tokens", "greedy_differ", "sampled_differ")]
            lines.append(
                f"| {entry['bundle']} | {entry['machine']} | {way} | " + " | ".join(map(str, figures)) + " |"
            )
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    made = parser("edgetext_bench.parity", __doc__)
    made.add_argument("bundles", type=Path, nargs="+", metavar="MODEL.etx")
    made.add_argument("--cases", type=int, default=25)
    made.add_argument("--tokens", type=int, default=40, help="most tokens of a case")
    made.add_argument(
        "--on", action="append", default=[], metavar="emulated:aarch64", help="another machine too"
    )
    made.add_argument("--emulated-cpu", action="append", default=[], metavar="NAME", help="default: max")
    made.add_argument(
        "--root", type=Path, help="where the emulated system is kept (default: the user's cache)"
    )
    made.add_argument("--collect", action="store_true", help="print the tokens as JSON and nothing else")

    options = made.parse_args()
    if options.collect:
        tokens = collect_all(options.bundles, cases=options.cases, tokens=options.tokens)
        sys.stdout.write(json.dumps({"versions": _versions(), "tokens": tokens}) + "\n")
        return 0

    def measure(options: Any) -> dict[str, Any]:
        here = collect_all(options.bundles, cases=options.cases, tokens=options.tokens)
        results = [
            {"bundle": name, "machine": "here", "ways": compare(found, found)} for name, found in here.items()
        ]
        machines: dict[str, Any] = {}
        for target in options.on:
            from edgetext_bench.emulated import Emulated

            machine = Emulated.open(target, options.root)
            for cpu in options.emulated_cpu or ["max"]:
                label = f"{target}, cpu {cpu}"
                arguments = ["--cases", str(options.cases), "--tokens", str(options.tokens), "--collect"]
                answer = json.loads(
                    machine.python(["-m", "edgetext_bench.parity", *arguments], options.bundles, cpu=cpu)
                )
                machines[label] = {**machine.describe(), **answer["versions"]}
                for name, found in answer["tokens"].items():
                    results.append({"bundle": name, "machine": label, "ways": compare(here[name], found)})
        return {"versions": _versions(), "machines": machines, "results": results}

    label = "measured; other machines emulated" if options.on else "measured"
    return run(made, measure, _table, label=label)


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime"),
    }


if __name__ == "__main__":
    sys.exit(main())
