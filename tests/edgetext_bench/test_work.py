"""What a token costs in a graph, counted and cut; and the estimates made of it."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_bundle as tiny

from edgetext_bench.modelled import DEVICES, THIS_MACHINE, estimates, predict
from edgetext_bench.work import cache_bytes_per_token, without_sampling, work_per_token

VOCAB = 3 + len(tiny.ALPHABET)
H = 16


def test_an_lstm_reads_all_but_the_embedding():
    graph, state = tiny.lstm_model(VOCAB, hidden=H)
    work = work_per_token(graph, VOCAB)
    weights = 4 * (2 * 4 * H * H + H * VOCAB)  # both gate matrices and the head, float32
    row = 4 * H
    assert weights + row <= work.weight_bytes <= weights + row + 100  # and a few scalars
    assert work.nodes == len(onnx.load_from_string(graph).graph.node)
    assert cache_bytes_per_token(tiny.manifest(VOCAB, state)) == 0


def test_what_is_computed_of_constants_counts_as_what_it_becomes():
    helper = onnx.helper
    packed = helper.make_tensor("w", onnx.TensorProto.INT4, [8, 8], bytes(32), raw=True)
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 8]) for n in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [packed])).SerializeToString()
    assert work_per_token(model, 8) == (8 * 8 * 4, 1)


def test_a_cache_costs_what_later_tokens_read_of_it():
    _, state = tiny.attention_model(VOCAB)
    assert cache_bytes_per_token(tiny.manifest(VOCAB, state)) == 2 * 32 * 4  # key and value, 2 heads of 16


@pytest.mark.parametrize("make", [tiny.lstm_model, tiny.attention_model])
def test_without_sampling_the_logits_stay_what_they_are(make):
    graph, state = make(VOCAB)
    short = without_sampling(graph)
    onnx.checker.check_model(onnx.load_from_string(short))
    kinds = {node.op_type for node in onnx.load_from_string(short).graph.node}
    assert "TopK" not in kinds
    feed = {"tokens": np.array([[3, 4]]), "positions": np.array([0, 1])}
    feed |= {"top_k": np.array([1]), "uniform": np.zeros(1, np.float32)}
    feed |= {name: np.ones(1, np.float32) for name in ("temperature", "top_p", "min_p")}
    if make is tiny.attention_model:
        feed["past_length"] = np.zeros(1, np.int64)
    feed |= {s.input: np.zeros(s.concrete_shape(1, tiny.CONTEXT), np.float32) for s in state}
    logits = []
    for model in (graph, short):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        names = {value.name for value in session.get_inputs()}
        logits.append(session.run(["logits"], {k: v for k, v in feed.items() if k in names})[0])
    np.testing.assert_array_equal(*logits)


def test_a_prediction_lies_in_its_interval_and_follows_its_terms():
    value, low, high = predict(100, 1_000_000, slowness=2.0, read_bps=1e9)
    assert (value, low < value < high) == (pytest.approx(100 * 1.3 * 2 + 1000), True)
    assert predict(100, 1_000_000, slowness=2.0, read_bps=1e9, extra_us=50)[0] == pytest.approx(value + 50)


def test_estimates_are_of_this_machine_and_of_every_class(record, bundles):
    found = estimates(record, bundles)
    here = [one for one in found if one.device == THIS_MACHINE]
    assert [(one.bundle, one.threads) for one in here] == [(0, 1), (1, 1)]
    assert all(one.measured_us > 0 for one in here)
    others = [one for one in found if one.device != THIS_MACHINE]
    assert len(others) == len(DEVICES) * len(bundles)
    assert all(one.measured_us is None and 0 < one.low < one.us_per_token < one.high for one in others)
    slower = replace(record, runs=tuple(_paced(run, 2) for run in record.runs))
    assert estimates(slower, bundles)[0].us_per_token > 1.8 * found[0].us_per_token


def _paced(run, factor):
    rounds = (replace(r, pace_ns=tuple(factor * n for n in r.pace_ns)) for r in run.rounds)
    return replace(run, rounds=tuple(rounds))
