"""Gates: a bundle that misses one is refused with a table, and nothing is left behind."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from edgetext.cli import group
from edgetext.errors import ConfigError, ExportError
from edgetext_export import export_run
from edgetext_export.gates import Gates, check_gates


def test_gates_that_are_kept_change_nothing(run, tmp_path):
    gates = Gates(max_mb=1.0, max_ms=1000.0, max_flip=0.5, max_perplexity_increase=0.05)
    report = export_run(run, tmp_path / "m.etx", quality_tokens=50, gates=gates)
    assert (
        report.path.read_bytes() == export_run(run, tmp_path / "n.etx", quality_tokens=50).path.read_bytes()
    )


@pytest.mark.parametrize(
    ("gates", "flag"),
    [
        (Gates(max_mb=0.001), "--max-mb"),
        (Gates(max_ms=1e-6), "--max-ms"),
        (Gates(max_flip=0.0), "--max-flip"),
    ],
)
def test_a_gate_that_is_missed_leaves_nothing(spoilt, gates, flag):
    before = sorted(spoilt.rglob("*"))
    with pytest.raises(ExportError, match=f"misses {flag}; nothing was written"):
        export_run(spoilt, recipe="int4", quality_tokens=400, gates=gates)
    assert sorted(spoilt.rglob("*")) == before


def test_perplexity_has_a_gate(exported):
    worse = replace(exported.quality, perplexity_exported=1.02 * exported.quality.perplexity_fp32)
    check_gates(Gates(max_perplexity_increase=0.021), worse, 1, None)
    with pytest.raises(ExportError, match="misses --max-perplexity-increase"):
        check_gates(Gates(max_perplexity_increase=0.019), worse, 1, None)


def test_the_table_shows_every_gate(exported):
    with pytest.raises(ExportError) as refusal:
        check_gates(Gates(max_mb=0.0, max_flip=1.0), exported.quality, 2_000_000, None)
    lines = str(refusal.value).splitlines()
    assert any("--max-mb" in line and "missed" in line and "2" in line for line in lines)
    assert any("--max-flip" in line and "kept" in line for line in lines)
    assert not any("--max-ms" in line for line in lines)


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ConfigError, match="--max-flip is -1"):
        Gates(max_flip=-1)


def test_the_command_fails_with_an_exit_code(spoilt, tmp_path):
    words = ["export", str(spoilt), "--int4", "--tokens", "50", "-o", str(tmp_path / "m.etx")]
    result = CliRunner().invoke(group, [*words, "--max-mb", "0.001"])
    assert result.exit_code != 0
    assert not list(tmp_path.glob("*.etx"))
    assert CliRunner().invoke(group, [*words, "--max-mb", "1"]).exit_code == 0
