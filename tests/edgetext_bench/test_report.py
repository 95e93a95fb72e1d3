"""Figures from known samples, and what the table and the plot say about them."""

from dataclasses import replace

import pytest

from edgetext_bench import Record, markdown_table, plot_latency
from edgetext_bench.report import notes
from edgetext_bench.summary import quantile, ratio, speedups, summarise


def stretched(record: Record, factor: int) -> Record:
    """The record with every latency of its first bundle set to ``factor`` times that of the second."""
    slow, fast = record.runs
    rounds = tuple(
        replace(
            r, step_ns=tuple(factor * n for n in r.step_ns), stream_ns=tuple(factor * n for n in r.stream_ns)
        )
        for r in fast.rounds
    )
    return replace(record, runs=(replace(slow, rounds=rounds), fast))


def at_a_pace(record: Record, ns: int) -> Record:
    """The record with steps of about ``ns``, whatever else this machine had to do while it was made."""
    runs = tuple(
        replace(
            run,
            rounds=tuple(
                replace(
                    r,
                    step_ns=tuple(ns + 100 * (i % 7) for i, _ in enumerate(r.step_ns)),
                    stream_ns=tuple(ns + 100 * (i % 5) for i, _ in enumerate(r.stream_ns)),
                )
                for r in run.rounds
            ),
        )
        for run in record.runs
    )
    return replace(record, runs=runs)


def test_quantiles_pool_the_rounds():
    figure = quantile([[1.0, 2.0, 3.0], [4.0, 5.0]])
    assert figure.value == 3
    assert figure.low <= 3 <= figure.high
    assert quantile([[1.0, 2.0, 3.0]]).low is None  # one round says nothing about others
    assert quantile([[7.0], [7.0], [7.0]]).high == 7


def test_ratio_of_paired_rounds_is_steady_where_both_sides_drift():
    # The machine slows down threefold half-way, for both sides: each is uncertain, their ratio is not.
    slow, fast = [[20.0], [20.0], [60.0], [60.0]], [[10.0], [10.0], [30.0], [30.0]]
    figure = ratio(slow, fast)
    assert (figure.value, figure.low, figure.high) == (2, 2, 2)
    assert quantile(slow).low < quantile(slow).high


def test_intervals_are_the_same_every_time():
    rounds = [[1.0, 5.0], [2.0, 4.0], [9.0]]
    assert quantile(rounds) == quantile(rounds)


def test_speedup_is_against_fp32(record):
    (speedup,) = speedups(stretched(record, 3))
    assert (speedup.reference, speedup.bundle, speedup.threads) == (0, 1, 1)
    assert speedup.step.value == pytest.approx(3)
    assert speedup.stream.value == pytest.approx(3)


def test_summary_follows_the_samples(record):
    run = record.runs[0]
    rounds = tuple(
        replace(r, step_ns=(1000,) * 50, stream_ns=(2000,) * 49, stream_tokens=50, stream_decode_s=0.1)
        for r in run.rounds
    )
    summary = summarise(replace(run, rounds=rounds))
    assert summary.step_s["p99"].value == pytest.approx(1e-6)
    assert summary.token_s["p50"].value == pytest.approx(2e-6)
    assert summary.tokens_per_s.value == pytest.approx(500)


def test_a_stream_without_text_still_has_a_report(record, tmp_path):
    # A model that ends every text at once: only the session can be measured.
    runs = tuple(
        replace(
            run,
            rounds=tuple(replace(r, stream_ns=(), stream_tokens=0, stream_decode_s=0.0) for r in run.rounds),
        )
        for run in record.runs
    )
    silent = replace(record, runs=runs)
    assert summarise(runs[0]).token_s is None
    (row, *_) = [line for line in markdown_table(silent).splitlines() if line.startswith("| fp32.etx × 1")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [cells[i] for i in (1, 2, 3, 5)] == ["–"] * 4
    assert float(cells[4].replace(",", "")) > 0  # the session alone
    assert plot_latency(silent, tmp_path / "silent.png").stat().st_size > 5000


def test_table_shows_bundles_quality_and_label(record):
    table = markdown_table(record)
    assert table.startswith("**measured** on ")
    for text in (
        "| fp32.etx | lstm  | fp32      |",
        "| int8.etx | lstm  | int8      |",
        "int8.etx: test.",
        "| int8.etx × 1 ",
        "+0.50%",
        "1.00%",
        "4.020",
    ):
        assert text in table
    assert "1 thread: int8.etx decodes" in table
    for block in table.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
        assert len({len(row) for row in rows}) <= 1  # aligned


def test_all_of_it_fits_a_hundred_columns(record):
    named = tuple(replace(b, file=f"student-{b.precision}.etx", parameters=782_720) for b in record.bundles)
    recipe = "int8-weights-dynamic-activations"
    named = (named[0], replace(named[1], recipe=recipe, architecture="transformer"))
    text = markdown_table(stretched(at_a_pace(replace(record, bundles=named), 60_000), 30))
    assert recipe in text
    assert not [line for line in text.splitlines() if len(line) > 100]


def settled(run, converged):
    return replace(run, rounds=tuple(replace(r, converged=converged) for r in run.rounds))


def test_notes_warn_about_what_spoils_figures(record):
    quiet = replace(record.environment, load_average=0.0, cores=2, usable_cores=2, cpu_quota=None)
    fair = replace(record, environment=quiet, runs=tuple(settled(r, converged=True) for r in record.runs))
    assert not [note for note in notes(fair) if "piece" not in note]

    def said(**environment):
        return " ".join(notes(replace(fair, environment=replace(quiet, **environment))))

    assert "busy" in said(load_average=2.0)
    many = replace(fair, runs=tuple(replace(r, threads=2) for r in fair.runs))
    assert "2 threads share 1 usable core" in " ".join(
        notes(replace(many, environment=replace(quiet, cpu_quota=1.5)))
    )
    unsettled = replace(fair, runs=(settled(fair.runs[0], converged=False), *fair.runs[1:]))
    assert "not settled" in " ".join(notes(unsettled))


def test_plot_is_written(record, tmp_path):
    path = plot_latency(record, tmp_path / "latency.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    wide = stretched(record, 100)  # needs a logarithmic axis
    assert plot_latency(wide, tmp_path / "wide.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (0.5, "so the GPU is its place"),
        (3, "below batches of 4"),
        (100, "belongs on the CPU, up to batches of 8"),
    ],
)
def test_a_gpu_is_compared_with_the_cpu(record, factor, said):
    run = at_a_pace(record, 60_000).runs[0]
    known = tuple((1000 * batch,) * 9 for batch in run.batches)  # the CPU gains nothing from a batch
    cpu = replace(run, rounds=tuple(replace(r, batch_ns=known) for r in run.rounds))
    launches = tuple((1000 * factor,) * 9 for _ in run.batches)  # the GPU takes as long for one as for eight
    steps = tuple(round(factor * ns) for ns in run.rounds[0].step_ns)
    rounds = tuple(replace(r, step_ns=steps, batch_ns=launches) for r in run.rounds)
    both = replace(record, runs=(replace(cpu, provider="cuda", rounds=rounds), cpu))
    assert said in " ".join(markdown_table(both).split())
