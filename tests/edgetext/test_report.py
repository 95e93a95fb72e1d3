"""report.md and its plots, from records alone."""

import json
import warnings

from click.testing import CliRunner
from finished_run import write_records
from matplotlib.axes import Axes

from edgetext.cli import group
from edgetext.evaluate.markdown import plain
from edgetext.evaluate.plots import plot_losses
from edgetext.evaluate.report import side_by_side, write_report


def test_unknown_tokens_are_confessed(tmp_path):
    text = write_report(write_records(tmp_path / "words", "word", unknown=30)).read_text()
    assert "Of the test tokens 3.75% are `<unk>`" in text
    assert "0.00% are `<unk>`" in write_report(write_records(tmp_path / "known", "word")).read_text()


def test_a_tokenizer_that_codes_every_text_has_nothing_to_confess(tmp_path):
    assert "<unk>" not in write_report(write_records(tmp_path / "bytes", "bpe")).read_text()


def test_a_report_written_again_keeps_its_latency(tmp_path):
    run = write_records(tmp_path / "run")
    assert "## Latency" not in write_report(run).read_text()
    (run / "bench.md").write_text("**measured** on a device\n")
    text = write_report(run).read_text()
    assert text.index("## Latency") < text.index("**measured** on a device") < text.index("## Samples")
    assert "latency.png" not in text  # there is no such plot


def test_the_side_by_side_table_fits_a_hundred_columns(tmp_path):
    result = json.loads((write_records(tmp_path / "run") / "result.json").read_text())
    result["models"].append({**result["models"][1], "name": "quantized", "arithmetic": "int8"})
    for row in result["models"]:
        row.update(kind="transformer", parameters=17_320_448, fp32_bytes=69_281_792)
    quality = {
        "perplexity": {"fp32": 43.386, "exported": 43.408},
        "perplexity_increase": 0.0005,
        "flip_rate": {"prompt": 0.0163},
    }
    bundle = {"name": "student-int8.etx", "precision": "int8", "bytes": 889_461, "quality": quality}
    text = side_by_side(result, [bundle])
    assert "69.28" in text
    assert "The student is the distilled model." in text
    assert max(map(len, text.splitlines())) <= 100


def test_report_command_leaves_a_wrong_directory_alone(tmp_path):
    result = CliRunner().invoke(group, ["report", str(tmp_path / "typo")])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert not (tmp_path / "typo").exists()


def test_losses_are_drawn_with_and_without_validations(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for validated in (True, False):
            run = write_records(tmp_path / f"validated-{validated}", validated=validated)
            assert plot_losses(run, run / "losses.png")
            assert (run / "losses.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    assert not plot_losses(tmp_path / "empty", tmp_path / "empty" / "losses.png")


def test_every_stage_with_a_record_is_drawn_in_the_order_of_the_run(tmp_path, monkeypatch):
    run = write_records(tmp_path / "run")
    record = (run / "teacher" / "metrics.jsonl").read_bytes()
    (run / "teacher").rename(run / "teacher-1")
    for name in ("teacher-2", "teacher-10", "assistant", "refined", "quantized", "data"):
        (run / name).mkdir()
        (run / name / "metrics.jsonl").write_bytes(record)
    scored = [{"step": 1, "told_apart": 0.5, "validation": {"score": 12.0, "nll": 3.25}}]
    (run / "refined" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scored))
    drawn = []
    keep = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: drawn.append(k.get("label")) or keep(*a, **k))
    assert plot_losses(run, run / "losses.png")
    lines = [label for label in drawn if label is not None]
    assert [line.partition(",")[0] for line in lines] == [
        *("teacher-1", "teacher-2", "teacher-10", "assistant", "distilled", "refined", "quantized"),
    ]
    assert "refined, best 3.25" in lines  # its likelihood, not the score that the referee looks at


def test_what_was_measured_in_int8_says_so(tmp_path):
    run = write_records(tmp_path / "run")
    assert "int8" not in write_report(run).read_text()
    result = json.loads((run / "result.json").read_text())
    result["models"].append({**result["models"][1], "name": "quantized", "arithmetic": "int8"})
    (run / "result.json").write_text(json.dumps(result))
    text = write_report(run).read_text()
    assert "| quantized† |" in text
    assert "† int8: measured in the arithmetic of the exported bundle" in text


def test_plain_columns_are_aligned_and_never_cut():
    text = plain("figures", [("size", "1"), ("a longer name", "x" * 300)])
    assert text == f"figures\n  size           1\n  a longer name  {'x' * 300}"
    assert plain("nothing", []) == "nothing"
