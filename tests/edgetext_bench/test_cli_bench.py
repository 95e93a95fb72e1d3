"""``edgetext bench`` as it is typed."""

import json

import pytest
from click.testing import CliRunner
from finished_run import write_records

from edgetext.cli import group
from edgetext.evaluate.report import write_report
from edgetext_bench import Record
from edgetext_runtime.__main__ import main as runtime

FAST = ("--threads", "1", "--tokens", "50", "--repeats", "2", "--prompt", "once")


def run(*arguments):
    return CliRunner().invoke(group, ["bench", *map(str, arguments)])


def test_table_record_plot_and_json_line(bundles, tmp_path):
    record, plot = tmp_path / "record.json", tmp_path / "plot.png"
    result = run(*bundles, *FAST, "--json", "-o", record, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert "| int8.etx × 1 " in result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["runs"][1]["threads"] == 1
    assert len(Record.from_json(record.read_text()).runs) == 2
    assert plot.exists()
    typed = "edgetext bench fp32.etx int8.etx --threads 1 --tokens 50 --repeats 2 --prompt once"
    assert Record.from_json(record.read_text()).command == typed

    again = run(*bundles, *FAST, "-o", record)
    assert again.exit_code == 1
    assert "--force" in again.stderr
    nowhere = run(*bundles, *FAST, "-o", tmp_path / "missing" / "record.json")
    assert "not a directory" in nowhere.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "0"), "threads"),
        (("--threads", "one"), "--threads 1,2"),
        (("--tokens", "5"), "--tokens"),
        (("--top-p", "2"), "top_p"),
    ],
)
def test_bad_options_are_clear_errors(bundles, arguments, message):
    result = run(bundles[0], *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr


def test_missing_bundle_is_a_clear_error(tmp_path):
    result = run(tmp_path / "none.etx")
    assert result.exit_code == 1
    assert "no bundle at" in result.stderr


def test_a_report_holds_the_record_now_and_when_it_is_written_again(record, tmp_path):
    directory = write_records(tmp_path / "run")
    (directory / "bench.json").write_text(record.to_json())
    result = CliRunner().invoke(group, ["report", str(directory)])
    assert result.exit_code == 0, result.output
    report = (directory / "report.md").read_text()
    assert "| int8.etx × 1 " in report
    assert "plots/latency.png" in report
    assert (directory / "plots" / "latency.png").exists()
    assert write_report(directory).read_text() == report


def test_the_runtime_alone_gives_the_core_figures(bundles, capsys):
    assert runtime(["bench", str(bundles[0]), "--threads", "1"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert 0 < figures["p50_us"] <= figures["p90_us"] <= figures["p99_us"]
    assert min(figures["load_ms"], figures["first_token_ms"]) > 0
    assert (figures["provider"], figures["threads"]) == ("CPUExecutionProvider", 1)
    assert runtime(["bench", "none.etx"]) == 1
    assert "no bundle at none.etx" in capsys.readouterr().err
