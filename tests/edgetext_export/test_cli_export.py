"""`edgetext export`, `inspect` and `verify`, as a user calls them."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgetext.cli import group
from edgetext_export import export_run
from edgetext_export.writer import manifest_json, write_bundle
from edgetext_runtime import read_bundle


def edgetext(*arguments):
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def last_line(result):
    return json.loads(result.stdout.splitlines()[-1])


def with_golden(exported, path, change):
    """A copy of a bundle with its golden.json changed."""
    bundle = read_bundle(exported.path)
    golden = json.loads(bundle.members["golden.json"])
    change(golden)
    return write_bundle(path, bundle.manifest, {**bundle.members, "golden.json": json.dumps(golden).encode()})


def test_export_writes_a_bundle_and_prints_its_figures(run, tmp_path):
    output = tmp_path / "model.etx"
    result = edgetext("export", run, "--fp32", "-o", output, "--tokens", 60, "--json")
    assert result.exit_code == 0, result.output
    figures = last_line(result)
    assert figures["path"] == str(output)
    assert figures["bundle_bytes"] == output.stat().st_size
    assert figures["quality"]["tokens"] == 60
    assert read_bundle(output).manifest.precision == "fp32"


def test_export_is_int8_by_default_and_refuses_to_overwrite(run, tmp_path):
    output = tmp_path / "model.etx"
    assert edgetext("export", run, "-o", output, "--tokens", 60).exit_code == 0
    assert read_bundle(output).manifest.precision == "int8"
    again = edgetext("export", run, "-o", output)
    assert again.exit_code == 1
    assert "Error: " in again.stderr
    assert "--force" in again.stderr
    assert edgetext("export", run, "--int8", "-o", output, "--tokens", 60, "--force").exit_code == 0


def test_export_of_something_else_is_one_clear_message(tmp_path):
    result = edgetext("export", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "edgetext distill" in result.stderr


@pytest.mark.parametrize("flags", [("--int8", "--fp32"), ("--int4", "--recipe", "int4-mixed")])
def test_two_kinds_of_weights_are_refused(run, tmp_path, flags):
    result = edgetext("export", run, *flags, "-o", tmp_path / "model.etx")
    assert result.exit_code == 2
    assert "are given together" in result.output
    assert not (tmp_path / "model.etx").exists()


def test_inspect_shows_everything_the_bundle_says(exported):
    result = edgetext("inspect", exported.path, "--json")
    assert result.exit_code == 0, result.output
    document = last_line(result)
    bundle = read_bundle(exported.path)
    assert document["manifest"] == json.loads(manifest_json(bundle.manifest))
    assert document["quality"] == exported.quality.to_dict()
    assert document["golden"]["cases"] == 4
    for word in (
        "model.onnx",
        "past.",
        "recipe",
        "animals.txt",
        "flip_rate.prompt",
        "operators.TopK",
        "bytes.embedding",
        bundle.sha256,
    ):
        assert word in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    for name, member in document["manifest"]["members"].items():
        assert [name, f"{member['size']:,}", member["sha256"]] in lines  # whole hashes, whatever the terminal


def test_inspect_says_what_concerns_this_model_in_few_figures(run, exported, tmp_path):
    shown = edgetext("inspect", exported.path).stdout
    rows = dict(line.split(maxsplit=1) for line in shown.splitlines() if line.startswith("  "))
    assert rows["portable"] == "no, onnxruntime's own operators too"
    assert not {"dropout", "bottleneck", "teacher.config.dropout"} & set(rows)
    assert ("heads" in rows) == (rows["architecture"] == "transformer")
    assert rows["perplexity.fp32"] == f"{exported.quality.perplexity_fp32:.5g}"
    path = export_run(run, tmp_path / "p.etx", "fp32", portable=True, quality_tokens=50).path
    assert "yes, ONNX's standard operators only" in edgetext("inspect", path).stdout


def test_a_name_that_is_no_bundles_is_refused(run, tmp_path):
    result = edgetext("export", run, "-o", tmp_path / "model")
    assert result.exit_code == 1
    assert "model is no name of a bundle; call it model.etx (-o)" in result.output


def test_verify_replays_the_golden_tokens(exported):
    result = edgetext("verify", exported.path, "--threads", 2, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count(": equal") == 4
    assert last_line(result)["failed"] == 0


def test_verify_says_which_case_differs_where_and_on_which_machines(exported, tmp_path):
    def change(golden):
        golden["cases"][1]["tokens"][3] += 1
        golden["cases"][2]["tokens"].pop()
        golden["kernel"] = {"machine": "aarch64", "isa": ["asimddp"]}

    path = with_golden(exported, tmp_path / "changed.etx", change)
    result = edgetext("verify", path, "--json")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    length = len(json.loads(read_bundle(path).members["golden.json"])["cases"][2]["tokens"])
    assert lines[0].endswith(": equal")
    assert lines[1].endswith(": first difference at token 3")
    assert lines[2].endswith(f": first difference at token {length}")
    assert "2 of 4 cases differ" in lines
    assert any("recorded on aarch64 (asimddp); this is" in line for line in lines)
    assert last_line(result)["failed"] == 2


def test_verify_notices_a_prompt_that_is_coded_otherwise(exported, tmp_path):
    def change(golden):
        golden["cases"][0]["prompt"] += "!"

    result = edgetext("verify", with_golden(exported, tmp_path / "changed.etx", change))
    assert result.exit_code == 1
    assert "case 0" in result.stdout.splitlines()[0]
    assert "coded into other tokens" in result.stdout


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_damaged_bundle_is_one_clear_message(exported, tmp_path, command):
    path = tmp_path / "damaged.etx"
    path.write_bytes(exported.path.read_bytes()[:-100])
    result = edgetext(command, path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


WITHOUT_EXTRAS = """
import sys
for name in ("rich", "torch", "onnx", "safetensors", "tokenizers", "datasets", "accelerate", "matplotlib"):
    sys.modules[name] = None
from edgetext.cli import main
sys.argv = ["edgetext", *sys.argv[1:]]
main()
"""


def edgetext_without_extras(*arguments):
    """The command where `edgetext` was installed without [train]."""
    command = [sys.executable, "-c", WITHOUT_EXTRAS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_bundles_are_inspected_and_verified_without_the_train_extra(exported):
    inspected = edgetext_without_extras("inspect", exported.path)
    assert inspected.returncode == 0, inspected.stderr
    assert inspected.stdout == edgetext("inspect", exported.path).stdout
    verified = edgetext_without_extras("verify", exported.path)
    assert verified.returncode == 0, verified.stderr


def test_export_without_the_train_extra_says_what_to_install(run, tmp_path):
    done = edgetext_without_extras("export", run, "-o", tmp_path / "model.etx")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "pip install 'edgetext[train]'" in done.stderr
