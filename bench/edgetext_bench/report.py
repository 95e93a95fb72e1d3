"""Turns a record into text: what was measured, on what, how, the figures, and what to mind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgetext_bench.record import BundleInfo, Record, Run
from edgetext_bench.summary import CONFIDENCE, RunSummary, speedups, summarise
from edgetext_bench.wording import (
    Block,
    Table,
    markdown,
    run_name,
    scaled,
    short_name,
    threads_text,
    three_digits,
)

_BUSY = 0.3
"""Load per core before the measurement from which the machine counts as busy."""


def markdown_table(record: Record) -> str:
    """Return the record as Markdown."""
    return markdown(blocks(record))


def blocks(record: Record) -> list[Block]:
    """The record as paragraphs, tables and lists, for Markdown and HTML."""
    found: list[Block] = [*_head(record), *_bundles(record.bundles)]
    if record.runs:
        found += _figures(record)
    if record.estimates:
        found += _estimates(record)
    if record.emulations:
        found += _emulations(record)
    found.append([f"Note: {note}" for note in notes(record)])
    return found


def _head(record: Record) -> list[Block]:
    environment, settings = record.environment, record.settings
    flags = f" ({' '.join(environment.cpu_flags)})" if environment.cpu_flags else ""
    quota = "" if environment.cpu_quota is None else f", quota {environment.cpu_quota:g}"
    governor = "" if environment.governor is None else f", governor {environment.governor}"
    warmth = "" if environment.temperature_c is None else f", {environment.temperature_c:.0f} °C"
    place = f" ({where(record)})" if where(record) else ""
    head: list[Block] = [
        f"**{record.label}**{place} on {record.created} with `{record.command}`",
        f"{environment.cpu}{flags}; "
        f"{environment.usable_cores} of {environment.cores} cores{quota}{governor}{warmth}; "
        f"{environment.system}, {environment.python}, numpy {environment.numpy}, "
        f"ONNX Runtime {environment.onnxruntime}, edgetext-runtime {environment.edgetext_runtime}.",
    ]
    if record.runs:
        head.append(
            f"{settings.tokens} tokens × {settings.repeats} rounds, each in a process of its own, top-k "
            f"{settings.top_k}, top-p {settings.top_p:g}, temperature {settings.temperature:g}; bundles take "
            f"turns. Values are medians unless a percentile is named; [ ] is a {CONFIDENCE:.0%} bootstrap "
            "interval over rounds."
        )
    return head


def _figures(record: Record) -> list[Block]:
    runs = [(run, summarise(run)) for run in record.runs]
    lengths = sorted({count for run in record.runs for count in run.prompts})
    found: list[Block] = [
        "Time per token in µs, sampling and text included; session: the graph alone.",
        _decode_table(record, runs),
        "Start-up in ms: loading the bundle, and once more; cold start: from the start of a process to "
        f"its first token; TTFT: from a prompt ({lengths[0]} to {lengths[-1]} tokens) to its first token. "
        "Memory: most resident, in MB; PSS: its share of what is shared.",
        _start_table(record, runs),
    ]
    if any(row.split_s or row.roofline for _, row in runs):
        found += [
            "Where a token's time goes, in µs: the graph up to its logits, its sampling, and the rest (host: "
            "Python, text); tokenising a prompt, per token. Roofline: kilobytes that a token reads, the "
            "bandwidth at which this machine reads as many, in GB/s, and the share that the session reaches.",
            _split_table(record, runs),
        ]
    if any(run.batches or run.depths for run, _ in runs):
        found += [
            "Batches: µs per token when so many sequences take a step together, through the checked call of "
            "the session. Depths: µs of a step after so many tokens.",
            _sweep_table(record, runs),
        ]
    if any(row.sustained for _, row in runs):
        found += [
            "Sustained: a step of the last quarter over one of the first; throttled is slower with a reason "
            "given by the processor.",
            _sustained_table(record, runs),
        ]
    found.append([*_speedup_lines(record), *_crossover_lines(runs, record)])
    return found


def where(record: Record) -> str:
    """Where the runs were measured, if not simply here."""
    return "" if record.on in ("here", "modelled") else record.on


def notes(record: Record) -> list[str]:
    """Return what a reader must know before trusting the figures."""
    environment = record.environment
    found = list(_about_label(record))
    cores = environment.usable_cores
    if environment.cpu_quota is not None:
        cores = min(cores, max(1, int(environment.cpu_quota)))
    if environment.load_average is not None and environment.load_average > _BUSY * environment.cores:
        found.append(
            f"the machine was busy before the measurement (load {environment.load_average:.1f} on "
            f"{environment.cores} cores): absolute figures are pessimistic"
        )
    over = sorted({run.threads for run in record.runs if run.threads > cores})
    if over:
        found.append(f"{', '.join(map(str, over))} threads share {cores} usable cores: not a fair figure")
    for run in record.runs:
        name = run_name(record.bundles, run)
        if not run.converged:
            most = max(r.warmup_rounds for r in run.rounds)
            found.append(f"{name} had not settled after {most} warm-up rounds")
    for number, bundle in enumerate(record.bundles):
        rounds = [r for run in record.runs if run.bundle == number for r in run.rounds]
        pieces, tokens = sum(len(r.stream_ns) for r in rounds), sum(r.stream_tokens for r in rounds)
        if pieces < 0.95 * tokens:
            found.append(
                f"{bundle.file}: a piece of its stream took {tokens / max(pieces, 1):.2f} tokens on average "
                "(parts of characters show nothing), so p50 to p99 are above the time per token"
            )
    return found


def _about_label(record: Record) -> Iterator[str]:
    if record.label == "limited":
        yield (
            "limited: this processor with fewer cores, less time or less memory; its kernels, caches and "
            "bandwidth are still its own, so this is not the figure of a smaller device"
        )
    if record.emulations:
        yield "emulated: same tokens or not, and instructions; how long it took says nothing about a device"
    if record.estimates:
        yield ("modelled: a bound with an interval, from bytes and operators over stated rates; not measured")


def _bundles(bundles: Sequence[BundleInfo]) -> list[Block]:
    rows = []
    for bundle in bundles:
        perplexity = quality(bundle, "perplexity", "exported")
        increase = quality(bundle, "perplexity_increase")
        flips = quality(bundle, "flip_rate", "step")
        rows.append(
            (
                bundle.file,
                bundle.architecture,
                bundle.precision,
                f"{bundle.parameters:,}",
                f"{bundle.bytes / 1e6:.2f}",
                "–" if perplexity is None else f"{perplexity:.3f}",
                "–" if increase is None else f"{round(increase, 4) + 0.0:+.2%}",
                "–" if flips is None else f"{flips:.2%}",
            )
        )
    head = ("bundle", "model", "precision", "parameters", "MB", "perplexity", "vs fp32", "flips")
    recipes = [f"{bundle.file}: {bundle.recipe}" for bundle in bundles if bundle.precision != "fp32"]
    explained = "Flips: share of steps whose likeliest token is not that of float32 in torch."
    if recipes:
        explained += f" Quantisation of {'; of '.join(recipes)}."
    return [Table(head, rows, text_columns=3), explained]


def quality(bundle: BundleInfo, *keys: str) -> float | None:
    """A number of the bundle's quality record; None where it has none."""
    value: Any = bundle.quality
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _decode_table(record: Record, runs: Sequence[tuple[Run, RunSummary]]) -> Table:
    rows = []
    for run, row in runs:
        stream = row.token_s or {}
        rows.append(
            (
                short_name(record, run),
                scaled(stream.get("p50"), 1e6, interval=True),
                *(scaled(stream.get(name), 1e6) for name in ("p90", "p99")),
                scaled(row.step_s["p50"], 1e6),
                scaled(row.tokens_per_s, 1),
            )
        )
    return Table(("bundle × threads", "p50", "p90", "p99", "session p50", "tokens/s"), rows)


def _start_table(record: Record, runs: Sequence[tuple[Run, RunSummary]]) -> Table:
    rows = [
        (
            short_name(record, run),
            *(scaled(figure, 1e3) for figure in (row.load_s, row.reload_s, row.first_token_s)),
            *(scaled(figure, 1e3) for figure in (row.ttft_s[0], row.ttft_s[-1])),
            *(
                "–" if value is None else f"{value / 1e6:.0f}"
                for value in (run.peak_rss_bytes, run.pss_bytes)
            ),
        )
        for run, row in runs
    ]
    head = ("bundle × threads", "load", "reload", "cold start", "TTFT short", "TTFT long")
    return Table((*head, "memory", "PSS"), rows)


def _split_table(record: Record, runs: Sequence[tuple[Run, RunSummary]]) -> Table:
    rows = []
    for run, row in runs:
        split, roof = row.split_s or {}, row.roofline
        parts = [split.get(name) for name in ("forward", "sample", "host", "tokenise")]
        bounds = ("–", "–", "–")
        if roof is not None:
            bounds = (
                three_digits(roof.bytes_per_token / 1e3),
                three_digits(roof.read_bps / 1e9),
                f"{roof.fraction:.0%}",
            )
        cells = ["–" if part is None else three_digits(part * 1e6) for part in parts]
        rows.append((short_name(record, run), *cells, *bounds))
    head = ("bundle × threads", "forward", "sample", "host", "tokenise", "kB/token", "GB/s", "of it")
    return Table(head, rows)


def _sweep_table(record: Record, runs: Sequence[tuple[Run, RunSummary]]) -> Table:
    batches = sorted({batch for run, _ in runs for batch in run.batches})
    depths = sorted({depth for run, _ in runs for depth in run.depths})
    rows = []
    for run, row in runs:
        by_batch = dict(zip(run.batches, row.batch_token_s, strict=True))
        by_depth = dict(zip(run.depths, row.depth_s, strict=True))
        figures = [*(by_batch.get(batch) for batch in batches), *(by_depth.get(depth) for depth in depths)]
        rows.append((short_name(record, run), *(scaled(figure, 1e6) for figure in figures)))
    head = ("bundle × threads", *(f"batch {n}" for n in batches), *(f"depth {n}" for n in depths))
    return Table(head, rows)


def _sustained_table(record: Record, runs: Sequence[tuple[Run, RunSummary]]) -> Table:
    rows = []
    for run, row in runs:
        if (window := row.sustained) is not None:
            energy = "–" if window.joules_per_token is None else f"{window.joules_per_token * 1e3:.3g}"
            figures = (f"{window.seconds:.0f}", f"{window.tokens_per_s:,.0f}", f"{window.drift:.3f}")
            rows.append((short_name(record, run), *figures, window.state, energy))
    return Table(("bundle × threads", "seconds", "steps/s", "drift", "state", "mJ/token"), rows)


def _estimates(record: Record) -> list[Block]:
    rows = [
        (
            record.bundles[one.bundle].file,
            f"{one.device} × {one.threads}",
            three_digits(one.us_per_token),
            f"{three_digits(one.low)} to {three_digits(one.high)}",
            "–" if one.measured_us is None else three_digits(one.measured_us),
            "–" if one.measured_us is None else f"{one.us_per_token / one.measured_us - 1:+.0%}",
        )
        for one in record.estimates
    ]
    head = ("bundle", "device × threads", "µs per token", "interval", "measured", "error")
    return ["**modelled**, the session's time per token:", Table(head, rows, text_columns=2)]


def _emulations(record: Record) -> list[Block]:
    def millions(count: float | None) -> str:
        return "–" if count is None else f"{count / 1e6:,.3g}" if count < 1e8 else f"{count / 1e6:,.0f}"

    rows = []
    for one in record.emulations:
        failed = len(one.golden_failed)
        golden = "the same" if not failed else f"{failed} of {one.golden_cases} differ"
        counts = (millions(one.instructions_load), millions(one.instructions_per_token))
        rows.append((record.bundles[one.bundle].file, one.cpu, one.provider, golden, *counts))
    versions = next((one.versions for one in record.emulations), {})
    made_of = ", ".join(f"{name} {value}" for name, value in versions.items())
    head = (
        "bundle",
        "processor",
        "backend",
        "golden tokens",
        "M instr. to first token",
        "M instr. per token",
    )
    return [f"**emulated** ({made_of}):", Table(head, rows, text_columns=4)]


def _speedup_lines(record: Record) -> Iterator[str]:
    for speedup in speedups(record):
        bundle, reference = record.bundles[speedup.bundle], record.bundles[speedup.reference]
        times = scaled(speedup.stream or speedup.step, 1, interval=True)
        yield (
            f"{threads_text(speedup.threads)}: {bundle.file} decodes {times}× as fast as {reference.file} "
            f"(session only {scaled(speedup.step, 1, interval=True)}×); "
            f"file size {bundle.bytes / reference.bytes:.1%}."
        )


def _crossover_lines(runs: Sequence[tuple[Run, RunSummary]], record: Record) -> Iterator[str]:
    """Of every bundle that ran on a GPU and on the CPU: which is faster, and from what batch on."""
    for run, row in runs:
        others = [r for o, r in runs if o.bundle == run.bundle and o.provider == "cpu"]
        if run.provider != "cuda" or not others:
            continue
        name, cpu = record.bundles[run.bundle].file, min(o.step_s["p50"].value for o in others)
        alone = row.step_s["p50"].value / cpu
        per_token = [min(o.batch_token_s[i].value for o in others) for i in range(len(run.batches))]
        faster = [b for b, own, other in zip(run.batches, row.batch_token_s, per_token, strict=True)
                  if own.value < other]  # fmt: skip
        one = f"{name}: a single text takes {alone:.2f}× as long per token on the GPU as on the CPU"
        if alone < 1:
            yield f"{one}, so the GPU is its place."
        elif faster:
            yield f"{one}; it belongs on the CPU below batches of {faster[0]}."
        else:
            yield f"{one}; it belongs on the CPU, up to batches of {max(run.batches, default=1)} at least."
