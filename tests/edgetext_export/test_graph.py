"""The step graph against torch: prompts, steps, batches, chunks, both kinds, both precisions."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from step_graphs import CONFIGS, LSTM, TRANSFORMER, make, reference, run, tokens_for, weights_of

from edgetext.errors import ExportError
from edgetext.models import build_model
from edgetext_export import build_step_graph
from edgetext_export.builder import IR_VERSION, OPSET


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
class TestFloat32:
    def test_a_prompt_gives_torchs_logits_for_every_sequence_of_a_batch(self, config):
        model, session = make(config, "fp32")
        tokens = tokens_for(config, batch=3)
        result = run(session, tokens, session.new_state(3), range(11))
        np.testing.assert_allclose(result.logits, reference(model, tokens), atol=1e-4)
        assert result.next_token.tolist() == reference(model, tokens)[:, -1].argmax(-1).tolist()

    def test_single_steps_and_chunks_give_the_same_logits_as_the_whole_prompt(self, config):
        model, session = make(config, "fp32")
        tokens = tokens_for(config)
        state, rows = session.new_state(), []
        for start, end in ((0, 4), (4, 5), (5, 9), (9, 10), (10, 11)):
            chunk = tokens[:, start:end]
            rows.append(run(session, chunk, state, range(end - start)).logits)
        np.testing.assert_allclose(np.concatenate(rows, axis=1), reference(model, tokens), atol=1e-4)

    def test_logits_come_only_where_they_are_asked_for(self, config):
        model, session = make(config, "fp32")
        tokens = tokens_for(config)
        result = run(session, tokens, session.new_state(), [2, 7])
        assert result.logits.shape == (1, 2, config.vocab_size)
        np.testing.assert_allclose(result.logits, reference(model, tokens)[:, [2, 7]], atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_int8_logits_stay_close_to_torch_in_prompts_and_steps(config):
    model, session = make(config, "int8")
    tokens = tokens_for(config)
    expected = reference(model, tokens)
    whole = run(session, tokens, session.new_state(), range(11)).logits
    state = session.new_state()
    steps = np.concatenate([run(session, tokens[:, t : t + 1], state, [0]).logits for t in range(11)], axis=1)
    spread = expected.std()
    for found in (whole, steps):
        assert np.abs(found - expected).mean() < 0.05 * spread


@pytest.mark.parametrize("config", [LSTM, TRANSFORMER], ids=["lstm", "transformer"])
def test_a_tied_table_is_stored_once(config):
    torch.manual_seed(0)
    wide = replace(config, vocab_size=4096)
    sizes = {}
    for tied in (True, False):
        shape = replace(wide, tied=tied)
        model = build_step_graph(shape, weights_of(build_model(shape)), "int8").model
        sizes[tied] = len(model)
    table = 4096 * 32  # one byte per weight, before scales
    assert sizes[False] - sizes[True] >= table
    assert sizes[True] < 2 * table


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("config", [LSTM, TRANSFORMER], ids=["lstm", "transformer"])
def test_the_file_keeps_weights_inline_and_says_little_about_its_maker(config, precision):
    torch.manual_seed(0)
    weights = weights_of(build_model(config))
    data = build_step_graph(config, weights, precision).model
    model = onnx.load_from_string(data)
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert not model.doc_string
    assert all(value.doc_string for value in (*model.graph.input, *model.graph.output))
    assert all(node.name for node in model.graph.node)
    assert not any(node.doc_string for node in model.graph.node)
    assert build_step_graph(config, weights, precision).model == data


def test_the_fp32_lstm_uses_standard_operators_only():
    torch.manual_seed(0)
    model = onnx.load_from_string(build_step_graph(LSTM, weights_of(build_model(LSTM)), "fp32").model)
    assert {node.domain for node in model.graph.node} == {""}


class TestRefusals:
    def weights(self):
        return weights_of(build_model(LSTM))

    def test_missing_weight(self):
        weights = self.weights()
        del weights["projection.bias"]
        with pytest.raises(ExportError, match=r"projection\.bias is missing"):
            build_step_graph(LSTM, weights, "fp32")

    def test_wrong_shape(self):
        with pytest.raises(ExportError, match=r"embedding\.weight has shape \[67, 32\]"):
            build_step_graph(replace(LSTM, vocab_size=68), self.weights(), "fp32")

    @pytest.mark.parametrize("precision", ["int8", "fp32"])
    def test_not_finite(self, precision):
        weights = self.weights()
        weights["lstm.weight_hh_l1"] = np.full_like(weights["lstm.weight_hh_l1"], np.nan)
        with pytest.raises(ExportError, match=r"lstm\.weight_hh_l1 has \d+ values that are NaN"):
            build_step_graph(LSTM, weights, precision)

    def test_unknown_precision(self):
        with pytest.raises(ExportError, match="'int3' is unknown; use one of int8"):
            build_step_graph(LSTM, self.weights(), "int3")
