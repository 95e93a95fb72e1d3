"""The quality record: protocol, figures, limits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgetext.checkpoint import load_model
from edgetext.errors import ExportError
from edgetext.evaluate.likelihood import likelihood
from edgetext.training.data import consecutive_windows, document_windows, open_stream
from edgetext_export.parity import Parity, check_parity, measure_parity, negative_log_likelihood
from edgetext_runtime import Generator

GOOD = Parity(1000, 20.0, 20.01, 0.01, 0.01, 128, 5e-4, 1e-4, 256, 256, 0.0, 5e-4)


def read_context(exported):
    return Generator.load(exported.path).manifest.context_length


def test_negative_log_likelihood_is_cross_entropy():
    random = np.random.default_rng(0)
    logits, targets = random.standard_normal((7, 11)).astype(np.float32) * 30, random.integers(0, 11, 7)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets), reduction="sum"
    )
    assert negative_log_likelihood(logits, targets) == pytest.approx(float(expected), rel=1e-6)


def test_the_torch_perplexity_is_the_one_of_the_training_side(run, exported):
    model = load_model(run / "student")
    stream = open_stream(run / "data" / "test.npy")
    length = min(128, model.config.context or 128)
    expected = likelihood(model, consecutive_windows(stream, length, 4))
    assert exported.quality.tokens == expected.tokens == len(stream) - 1
    assert exported.quality.perplexity_fp32 == pytest.approx(expected.perplexity, rel=1e-4)


def test_fp32_is_the_torch_model_and_int8_is_close(exported):
    quality = exported.quality
    if exported.precision == "fp32":
        assert quality.max_logit_error < 1e-4
        assert quality.flip_rate_prompt == quality.flip_rate_step == quality.batch_flip_rate == 0
        assert quality.batch_max_logit_error < 1e-4
        assert quality.greedy_same == quality.greedy_tokens == (read_context(exported) or 256)
    else:
        assert abs(quality.perplexity_increase) < 0.01
        assert 0 < quality.max_logit_error < 1
        assert quality.flip_rate_prompt < 0.1


def test_the_cap_counts_targets_and_progress_reaches_it(run, exported):
    model, session = load_model(run / "student"), Generator.load(exported.path).session
    stream = open_stream(run / "data" / "test.npy")
    seen = []
    parity = measure_parity(
        model,
        session,
        stream,
        limit=150,
        step_limit=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    window = min(128, session.manifest.context_length or 128)
    assert parity.tokens == 150
    assert parity.step_tokens == window
    assert seen == [(window, 150), (150, 150)]


def test_by_document_the_rows_are_those_of_the_training_side(run, exported):
    model, session = load_model(run / "student"), Generator.load(exported.path).session
    length = min(128, model.config.context or 128)
    text = open_stream(run / "data" / "test.npy")
    text = text[text != 0]
    stream = np.concatenate([[0], text[:2], [0], text[:600], [0]]).astype(np.uint16)
    seen = []
    parity = measure_parity(
        model,
        session,
        stream,
        windows="document",
        limit=500,
        step_limit=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    expected = likelihood(model, document_windows(stream, length, 4, 500))
    assert parity.tokens == expected.tokens == 3 + (500 - 3) // length * length
    assert parity.perplexity_fp32 == pytest.approx(expected.perplexity, rel=1e-4)
    assert seen[-1] == (parity.tokens, parity.tokens)


def test_a_stream_without_a_target_is_refused(run, exported):
    model, session = load_model(run / "student"), Generator.load(exported.path).session
    with pytest.raises(ExportError, match="fewer than two tokens"):
        measure_parity(model, session, np.zeros(1, np.uint16))


def test_good_figures_pass():
    check_parity(GOOD, "fp32")
    check_parity(replace(GOOD, max_logit_error=3.0), "int8")


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"max_logit_error": 1e-3}, "fp32", r"not the torch model: largest logit error 0\.001"),
        ({"perplexity_exported": 22.0}, "int8", r"int8 raises perplexity by 10\.0%.*export with --fp32"),
        ({"perplexity_exported": 22.0}, "int4-mixed", r"^int4-mixed raises.*export with --int8 or --fp32"),
        ({"perplexity_exported": math.inf}, "int8", "not finite"),
        ({"max_logit_error": math.nan}, "fp32", "not finite"),
    ],
)
def test_bad_figures_are_refused_and_named(change, recipe, message):
    with pytest.raises(ExportError, match=message):
        check_parity(replace(GOOD, **change), recipe)
