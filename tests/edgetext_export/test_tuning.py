"""Measured choices: what may be chosen, when, and that the bundle says so."""

import shutil

import pytest
from step_graphs import LSTM, lively, manifest_of, weights_of

from edgetext.errors import ExportError
from edgetext_export import export_run
from edgetext_export.gates import Gates
from edgetext_export.graph import build_step_graph
from edgetext_export.recipes import COLUMNS, RECIPES
from edgetext_export.tuning import candidates, choose, tune
from edgetext_runtime import read_bundle
from edgetext_runtime.session import StepSession


def test_a_gain_within_the_noise_changes_nothing():
    assert choose({"first": 100.0, "other": 98.0}) == "first"
    assert choose({"first": 100.0, "other": 90.0, "slow": 300.0}) == "other"


def test_what_is_tried():
    tried = candidates(RECIPES["int8"], kind="lstm", tied=True)
    assert next(iter(tried.values())) == RECIPES["int8"]
    assert {recipe.matrices for recipe in tried.values()} == {RECIPES["int8"].matrices, COLUMNS}
    assert [*tried.values()][1].chosen.keys() == {"embedding.weight"}
    assert [recipe.decomposed for recipe in tried.values()] == [False, False, False, True]
    assert not any(r.decomposed for r in candidates(RECIPES["int8"], kind="gru", tied=True).values())


def test_the_bundle_says_what_was_chosen_and_from_what(spoilt, tmp_path):
    report = export_run(spoilt, tmp_path / "m.etx", quality_tokens=50, tuned=True)
    chosen = read_bundle(report.path).manifest.quantisation.get("chosen")
    assert chosen["chosen"] in chosen["us_per_step"]
    assert len(chosen["us_per_step"]) == 4
    assert min(chosen["us_per_step"].values()) > 0


def test_with_a_gate_on_flips_the_fastest_that_keeps_to_it_is_taken(spoilt, tmp_path):
    shutil.copy(spoilt / "data" / "test.npy", spoilt / "data" / "valid.npy")
    gates = Gates(max_flip=0.5)
    report = export_run(spoilt, tmp_path / "m.etx", quality_tokens=50, tuned=True, gates=gates)
    chosen = read_bundle(report.path).manifest.quantisation["chosen"]
    assert chosen["flips"].keys() == chosen["us_per_step"].keys()
    assert chosen["max_flip"] == 0.5


def test_flips_decide_before_speed_does():
    model = lively(LSTM)

    def build(recipe):
        graph = build_step_graph(LSTM, weights_of(model), recipe)
        return StepSession(graph.model, manifest_of(LSTM, graph))

    sessions = []

    def flips(session):
        sessions.append(session)
        return [0.2, 0.01, 0.2, 0.2][len(sessions) - 1]

    tuned = tune(RECIPES["int8"], "lstm", True, build, flips, most=0.015)
    assert tuned.record["chosen"] == "output layer in blocks of 128"
    assert len(sessions) == 4


def test_only_int8_is_tuned(spoilt):
    with pytest.raises(ExportError, match="--tune is for the recipe int8, not int4"):
        export_run(spoilt, recipe="int4", tuned=True)
