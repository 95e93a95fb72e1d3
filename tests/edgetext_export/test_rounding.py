"""Rounding by what matrices read (GPTQ): smaller errors of products, moments as in torch, who gets it."""

import json
import shutil

import numpy as np
import pytest
import torch
from step_graphs import GRU, LSTM, TRANSFORMER, lively, tokens_for, weights_of

from edgetext.errors import CheckpointError, ExportError
from edgetext_export import export_run
from edgetext_export.calibration import windows
from edgetext_export.graph import build_step_graph
from edgetext_export.moments import WINDOWS, read_moments
from edgetext_export.quantize import quantise_blocks, quantise_columns
from edgetext_export.recipes import RECIPES
from edgetext_export.rounding import spare_products
from edgetext_runtime import read_bundle

FP32 = RECIPES["fp32"]


def correlated(tokens, width, seed=0):
    """Inputs [tokens, width] as networks have them: few directions carry most of it."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width // 4, width)) + 0.3 * np.eye(width)[: width // 4]
    noise = 0.1 * rng.standard_normal((tokens, width))
    return (rng.standard_normal((tokens, width // 4)) @ mixing + noise).astype(np.float32)


@pytest.mark.parametrize(
    "quantise",
    [
        lambda w, moments: quantise_blocks(w, moments=moments),
        lambda w, moments: quantise_blocks(w, bits=4, moments=moments),
        lambda w, moments: quantise_columns(w.T, 63, moments),
    ],
    ids=["8-bit blocks", "4-bit blocks", "columns"],
)
@pytest.mark.parametrize("width", [64, 150])
def test_products_lose_less_on_other_inputs_too(quantise, width):
    weight = np.random.default_rng(1).standard_normal((40, width)).astype(np.float32)
    seen, unseen = correlated(4000, width), correlated(500, width)[250:]
    errors = []
    for moments in (None, seen.T @ seen / np.float32(len(seen))):
        q = quantise(weight, moments)
        exact = q.dequantised() if q.values.shape[0] == len(weight) else q.dequantised().T
        errors.append(np.square((exact - weight) @ unseen.T).mean())
    assert errors[1] < 0.6 * errors[0]


def test_without_correlation_every_weight_goes_to_its_nearest_level():
    weight = np.random.default_rng(2).standard_normal((9, 70)).astype(np.float32)
    steps = np.full_like(weight, 0.1)
    nearest = np.clip(np.rint(weight / steps), -8, 7)
    nothing, wild = np.zeros((70, 70), np.float32), np.full((70, 70), np.inf, np.float32)
    for moments in (np.diag(np.arange(1, 71, dtype=np.float32)), nothing, wild):
        np.testing.assert_array_equal(spare_products(weight, steps, -8, 7, moments), nearest)


@pytest.mark.parametrize("config", [LSTM, GRU], ids=["lstm", "gru"])
def test_moments_are_those_of_what_torch_computes(config):
    model, text = lively(config), tokens_for(config, time=400)[0].astype(np.uint16)
    graph = build_step_graph(config, weights_of(model), "fp32")
    moments = read_moments(graph, text, None)
    pieces = [piece["tokens"] for piece in windows(graph.state, text, None, count=WINDOWS, stride=1)]
    tokens = torch.from_numpy(np.concatenate(pieces))  # [B,T]
    with torch.no_grad():
        x = model.embedding(tokens)
        kind = torch.nn.LSTM if config.kind == "lstm" else torch.nn.GRU
        layer = kind(config.embedding, config.hidden, batch_first=True)
        layer.load_state_dict(
            {f"{p}_l0": model.state_dict()[f"{config.kind}.{p}_l0"] for p in ("weight_ih", "weight_hh")}
            | {f"{p}_l0": model.state_dict()[f"{config.kind}.{p}_l0"] for p in ("bias_ih", "bias_hh")}
        )
        y = layer(x)[0]
    count = tokens.numel()
    for name, read in ((f"{config.kind}.0.input", x), (f"{config.kind}.0.recurrent", y[:, :-1])):
        flat = read.flatten(0, 1)
        np.testing.assert_allclose(moments[name], flat.T @ flat / count, atol=1e-4)
    matrices = {f"{config.kind}.{i}.{part}" for i in range(2) for part in ("input", "recurrent")}
    assert set(moments) == matrices | {"projection.weight", "embedding.weight"}


@pytest.mark.parametrize("portable", [False, True])
def test_every_matrix_of_a_transformer_has_its_moments(portable):
    model, text = lively(TRANSFORMER), tokens_for(TRANSFORMER, time=90)[0].astype(np.uint16)
    recipe, int8 = FP32, RECIPES["int8"]
    if portable:
        recipe, int8 = FP32.as_portable(), int8.as_portable()
    plain = build_step_graph(TRANSFORMER, weights_of(model), recipe)
    moments = read_moments(plain, text, TRANSFORMER.context)
    graph = build_step_graph(TRANSFORMER, weights_of(model), int8, moments=moments)
    record = graph.quantisation["tensors"]
    assert len(record) == 4 * TRANSFORMER.layers + 1
    assert all(how.endswith(", GPTQ") for how in record.values())


def rounded(path):
    tensors = read_bundle(path).manifest.quantisation["tensors"].values()
    return {how.endswith(", GPTQ") for how in tensors}


class TestWhoIsRoundedHow:
    @pytest.fixture
    def with_text(self, spoilt):
        """A run with a validation split."""
        shutil.copy(spoilt / "data" / "test.npy", spoilt / "data" / "valid.npy")
        return spoilt

    def test_students_by_what_they_read_unless_asked_otherwise(self, with_text, tmp_path):
        report = export_run(with_text, tmp_path / "a.etx", quality_tokens=100)
        assert rounded(report.path) == {True}
        report = export_run(with_text, tmp_path / "b.etx", "int4", quality_tokens=100, rounding="nearest")
        assert rounded(report.path) == {False}

    def test_students_trained_in_int8_as_they_were_trained(self, with_text, tmp_path):
        (with_text / "config.json").write_text(json.dumps({"quantized_steps": 5}))
        assert rounded(export_run(with_text, tmp_path / "a.etx", quality_tokens=50).path) == {False}

    def test_nobody_without_text(self, spoilt, tmp_path):
        assert rounded(export_run(spoilt, tmp_path / "a.etx", quality_tokens=50).path) == {False}
        with pytest.raises(CheckpointError, match=r"valid\.npy is missing"):
            export_run(spoilt, tmp_path / "b.etx", rounding="gptq")

    @pytest.mark.parametrize("recipe", ["fp32", "fp16", "int8-static"])
    def test_not_what_is_not_quantised_here(self, spoilt, recipe):
        with pytest.raises(ExportError, match=rf"--rounding .* not for {recipe}"):
            export_run(spoilt, recipe=recipe, rounding="nearest")
