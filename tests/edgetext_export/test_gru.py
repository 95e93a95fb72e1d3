"""A GRU from a run to a bundle: exported, inspected, verified; refused where its operators are unknown."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from edgetext.cli import group
from edgetext_export import export_run
from edgetext_runtime import BundleError, Generator, read_bundle

OPERATORS = {"fp32": {"GRU"}, "int8": {"Scan", "com.microsoft.MatMulNBits", "Sigmoid"}}


@pytest.mark.parametrize("recipe", OPERATORS)
def test_a_bundle_of_a_gru_runs_and_says_what_it_is(gru_run, tmp_path, recipe):
    report = export_run(gru_run, tmp_path / "m.etx", recipe)
    bundle = read_bundle(report.path)
    assert bundle.manifest.architecture == "gru"
    assert [entry.input for entry in bundle.manifest.state] == ["past.h.0", "past.h.1"]
    assert report.quality.flip_rate_step <= (0.05 if recipe == "int8" else 0)
    assert "GRU: embedding 32, hidden 48" in bundle.members["CARD.md"].decode()
    generator = Generator(bundle)
    assert generator.verify() == []
    assert generator.generate("The quick", max_new_tokens=9, seed=1).tokens
    result = CliRunner().invoke(group, ["inspect", str(report.path), "--json"])
    graph = json.loads(result.stdout.splitlines()[-1])["graph"]
    assert OPERATORS[recipe] <= set(graph["operators"])
    assert sum(graph["bytes"].values()) == pytest.approx(report.model_bytes, rel=0.3)


@pytest.mark.parametrize("recipe", OPERATORS)
def test_numpy_refuses_it_with_the_way_out(gru_run, tmp_path, recipe):
    report = export_run(gru_run, tmp_path / "m.etx", recipe, quality_tokens=50)
    with pytest.raises(BundleError, match="pip install onnxruntime"):
        Generator.load(report.path, provider="numpy")


def test_a_batch_of_int8_sequences_is_each_sequence_alone(gru_run, tmp_path):
    """Activations are quantised by row and block, which DynamicQuantizeLSTM does not do."""
    generator = Generator.load(export_run(gru_run, tmp_path / "m.etx", quality_tokens=50).path)
    prompts = ["The quick fox", "The lazy dog ran over", "Nobody"]
    together = generator.generate_batch(prompts, max_new_tokens=12, temperature=0.0)
    for prompt, result in zip(prompts, together, strict=True):
        alone = generator.generate(prompt, max_new_tokens=12, temperature=0.0)
        assert np.array_equal(alone.tokens, result.tokens)
