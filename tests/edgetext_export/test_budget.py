"""A budget chooses the student: the largest whose real bundle fits, and why not the next."""

import pytest
import torch

from edgetext.checkpoint import read_json
from edgetext.errors import ConfigError
from edgetext.models import ModelConfig
from edgetext.models.presets import PRESETS, resolve_model
from edgetext_export import export_run
from edgetext_export.budget import TOKENIZER_BYTES, build_bundle, choose_student, stand_in_tokenizer
from edgetext_export.ladder import ladders
from edgetext_runtime.tokenizer import Tokenizer

KINDS = ("lstm", "gru", "transformer")


@pytest.fixture(scope="module")
def vocab_size(tokenizer_json):
    return Tokenizer.from_json(tokenizer_json).vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_that_fits_is_chosen(kind, vocab_size, tokenizer_json):
    choice = choose_student(vocab_size, budget_mb=0.35, kind=kind, tokenizer_json=tokenizer_json)
    assert choice.model_config == resolve_model(choice.spec, vocab_size)
    assert choice.model_config.kind == kind
    assert choice.bundle_bytes <= 350_000
    assert choice.ms_per_token is None
    for rungs in ladders(kind, vocab_size):
        for rung in rungs:
            if rung.config.parameters() > choice.model_config.parameters():
                assert build_bundle(rung.config, tokenizer_json)[1] > 350_000
                break  # the next larger of each family


def test_the_size_foretold_is_the_size_of_the_export(run, tokenizer_json, tmp_path):
    config = ModelConfig.from_dict(read_json(run / "student" / "config.json"))
    _, foretold = build_bundle(config, tokenizer_json)
    made = export_run(run, tmp_path / "model.etx", quality_tokens=50).bundle_bytes
    assert made == pytest.approx(foretold, abs=2_000)  # the records in it: golden cases, quality, card


def test_time_is_measured_of_what_size_lets_through(vocab_size, tokenizer_json):
    seen = []
    choice = choose_student(
        vocab_size, budget_mb=0.3, budget_ms=1000, tokenizer_json=tokenizer_json, tried=seen.append
    )
    assert choice.spec == choose_student(vocab_size, budget_mb=0.3, tokenizer_json=tokenizer_json).spec
    assert choice.ms_per_token > 0
    assert {trial.outcome for trial in seen} == {"fits", "too large"}
    for trial in seen:
        assert (trial.ms_per_token is not None) == trial.fits
        assert trial.fits == (trial.built and trial.bundle_bytes <= 300_000)
    assert sorted(trial.spec for trial in seen) == sorted(trial.spec for trial in choice.trials)


def test_the_choice_says_why(vocab_size):
    choice = choose_student(vocab_size, budget_mb=0.3, budget_ms=1000, kind="lstm")
    for words in (f"chose {choice.spec}", "of 0.3", "ms per token of 1000", "the next larger", "too large"):
        assert words in choice.reason
    assert choice.table.count("too large") == sum(not trial.fits for trial in choice.trials)
    assert max(map(len, choice.table.splitlines())) <= 100
    record = choice.to_dict()
    assert record["spec"] == choice.spec
    assert len(record["trials"]) == len(choice.trials)


def test_the_top_of_the_ladder_is_said_to_be_the_top():
    choice = choose_student(16, budget_mb=1000, kind="lstm")
    assert choice.model_config.hidden == 1024
    assert "largest of its family" in choice.reason


def test_a_smaller_vocabulary_leaves_room_for_the_model():
    sizes = [choose_student(size, budget_mb=0.4).model_config.hidden for size in (100, 4000)]
    assert sizes[0] > sizes[1]


def test_what_cannot_fit_names_what_is_reachable(vocab_size, tokenizer_json):
    with pytest.raises(ConfigError, match=r"no student fits 0\.01 MB.*a bundle of \d\.\d+ MB.*--budget-mb"):
        choose_student(vocab_size, budget_mb=0.01, tokenizer_json=tokenizer_json)
    with pytest.raises(ConfigError, match=r"the fastest, .*, takes \d\.\d+ ms; raise --budget-ms"):
        choose_student(vocab_size, budget_mb=0.2, budget_ms=1e-6, tokenizer_json=tokenizer_json)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--budget-mb, --budget-ms, or both"),
        ({"budget_mb": 0}, "--budget-mb is 0"),
        ({"budget_ms": float("nan")}, "--budget-ms is nan"),
        ({"budget_mb": 1, "kind": "rnn"}, "'rnn' is unknown"),
    ],
)
def test_a_budget_that_is_none_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        choose_student(100, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_ladders_hold_the_presets_and_rise(kind):
    rungs = [rung for family in ladders(kind, 1000) for rung in family]
    students = {name for name, (shape, _) in PRESETS.items() if "student" in name and shape.kind == kind}
    assert students <= {rung.spec for rung in rungs}
    assert len({rung.config for rung in rungs}) == len(rungs)
    for family in ladders(kind, 1000):
        parameters = [rung.config.parameters() for rung in family]
        assert parameters == sorted(parameters)
    for rung in rungs:
        assert rung.config == resolve_model(rung.spec, 1000)


def test_a_longer_context_reaches_every_transformer():
    rungs = [rung for family in ladders("transformer", 1000, context=300) for rung in family]
    assert {rung.config.context for rung in rungs} == {300}
    assert {rung.config for rung in rungs} == {resolve_model(rung.spec, 1000) for rung in rungs}


@pytest.mark.parametrize("size", [4, 70, 5000])
def test_the_stand_in_is_a_tokenizer_of_its_size(size):
    data = stand_in_tokenizer(size)
    assert Tokenizer.from_json(data).vocab_size == size
    assert len(data) == pytest.approx(TOKENIZER_BYTES * size, abs=size * 4 + 1000)
    with pytest.raises(ConfigError, match="--vocab-size"):
        stand_in_tokenizer(3)


def test_choosing_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    choose_student(50, budget_mb=0.2, kind="lstm")
    assert torch.equal(torch.get_rng_state(), before)
