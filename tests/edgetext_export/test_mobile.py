"""`edgetext export --mobile`: a model in onnxruntime's own format, its operators, an honest report."""

import json

import onnx
import pytest
from click.testing import CliRunner
from step_graphs import GRU, LSTM, TRANSFORMER, lively, manifest_of, weights_of

from edgetext.cli import group
from edgetext.errors import ExportError
from edgetext_export import export_run
from edgetext_export.graph import build_step_graph
from edgetext_export.mobile import checked_mobile, mobile_paths, weight_bytes_per_token
from edgetext_runtime import Bundle, Generator, read_bundle


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """A bundle with its files for a phone, and what the command printed."""
    output = tmp_path_factory.mktemp("mobile") / "student.etx"
    command = ["export", str(run), "-o", str(output), "--tokens", "60", "--mobile", "--json"]
    return output, CliRunner().invoke(group, command, catch_exceptions=False)


def test_the_converted_model_gives_the_bundles_golden_tokens(made):
    output, _ = made
    bundle = read_bundle(output)
    model = output.with_suffix(".ort").read_bytes()
    assert model[4:8] == b"ORTM"
    converted = Generator(Bundle(bundle.manifest, {**bundle.members, "model.onnx": model}, ""), threads=2)
    assert converted.verify() == []


def test_the_operators_are_those_of_the_graph(made):
    output, _ = made
    text = output.with_name("student.required_operators_and_types.config").read_text()
    for node in onnx.load_from_string(read_bundle(output).members["model.onnx"]).graph.node:
        if node.op_type not in ("Reshape", "Cast", "Constant", "Round", "Slice"):  # folded into constants
            assert node.op_type in text


def test_the_report_advises_what_the_checker_found(made):
    output, result = made
    report = output.with_name("student.mobile.md").read_text()
    assert "**Use the CPU provider.**" in report
    assert "MatMulNBits" in report
    figures = json.loads(result.stdout.splitlines()[-1])["mobile"]
    assert f"{figures['weight_bytes_per_token']:,} bytes of weights" in report
    for accelerator, found in figures["usability"].items():
        assert found["verdict"] == "NO"
        assert f"{found['accepted']} of {found['operators']}" in report
        assert accelerator in report
    assert "run it there with" in result.stdout
    assert set(output.parent.iterdir()) == {output, *mobile_paths(output)}


def test_a_token_reads_all_matrices_and_a_row_of_the_table():
    for config in (LSTM, GRU, TRANSFORMER):
        graph = build_step_graph(config, weights_of(lively(config)), "fp32")
        stored = {t.name: t for t in onnx.load_from_string(graph.model).graph.initializer}
        sizes = {name: onnx.numpy_helper.to_array(t).nbytes for name, t in stored.items()}
        rows = {"rotary.cos", "rotary.sin"}
        # A tied table is read whole by the output layer, and once more by the row.
        expected = sum(size for name, size in sizes.items() if name not in rows)
        expected += sum(
            sizes[name] // stored[name].dims[0] for name in ("embedding.weight", *rows & set(sizes))
        )
        assert weight_bytes_per_token(graph.model) == expected


def test_nothing_is_written_if_one_of_the_files_is_there(run, tmp_path):
    (tmp_path / "m.ort").write_bytes(b"somebody's")
    with pytest.raises(ExportError, match=r"m\.ort exists already; replace it with --force"):
        export_run(run, tmp_path / "m.etx", mobile=True, quality_tokens=20)
    assert [path.name for path in tmp_path.iterdir()] == ["m.ort"]
    (tmp_path / "m.mobile.md").mkdir()
    with pytest.raises(ExportError, match=r"m\.mobile\.md is a directory"):
        export_run(run, tmp_path / "m.etx", mobile=True, quality_tokens=20, force=True)
    assert (tmp_path / "m.ort").read_bytes() == b"somebody's"


def test_a_model_that_cannot_be_converted_says_why():
    graph = build_step_graph(LSTM, weights_of(lively(LSTM)), "fp32")
    broken = onnx.load_from_string(graph.model)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match=r"converter to \.ort failed: .*NoSuchOperator"):
        checked_mobile(manifest_of(LSTM, graph), {"model.onnx": broken.SerializeToString()})


def test_wide_and_narrow_weights_count_what_they_take():
    for config in (GRU, TRANSFORMER):  # a GRU's recurrent products stand in the body of a loop
        sizes = {}
        for recipe in ("fp32", "int8"):
            graph = build_step_graph(config, weights_of(lively(config)), recipe)
            sizes[recipe] = weight_bytes_per_token(graph.model)
        assert 0.25 < sizes["int8"] / sizes["fp32"] < 0.5
