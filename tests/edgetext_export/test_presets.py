"""`edgetext presets` states sizes from shapes alone; the exporter has the last word."""

import json

import pytest
import torch
from click.testing import CliRunner

from edgetext.checkpoint import model_tensors
from edgetext.cli.presets import command
from edgetext.models import build_model
from edgetext.models.presets import PRESETS
from edgetext_export import build_step_graph


@pytest.mark.parametrize("name", [name for name in PRESETS if "student" in name])
def test_the_int8_size_stated_is_the_size_exported(name):
    config = PRESETS[name][0].with_vocab(512)
    torch.manual_seed(0)
    weights = {key: tensor.numpy() for key, tensor in model_tensors(build_model(config)).items()}
    exported = len(build_step_graph(config, weights, "int8").model)
    assert config.int8_bytes() == pytest.approx(exported, rel=0.04)


def test_presets_are_printed_with_parameters_and_sizes():
    result = CliRunner().invoke(command, ["--vocab-size", "1000", "--json"])
    rows = {row["name"]: row for row in json.loads(result.output)["presets"]}
    assert set(rows) == set(PRESETS)
    shape = PRESETS["lstm-student"][0].with_vocab(1000)
    assert rows["lstm-student"]["parameters"] == shape.parameters()
    assert f"{shape.parameters():,}" in CliRunner().invoke(command, ["--vocab-size", "1000"]).output
