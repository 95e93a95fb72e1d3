"""The sampling subgraph against the runtime's numpy reference."""

import numpy as np
import onnxruntime
import pytest
from reference_sampling import sample

from edgetext_export.builder import FLOAT, GraphBuilder
from edgetext_export.sampling import add_sampling, declare_sampling_inputs
from edgetext_runtime.sampling import SamplingParams

PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(temperature=0.7, top_k=5),
    SamplingParams(temperature=1.3, top_p=0.8),
    SamplingParams(temperature=0.9, top_k=40, top_p=0.95),
    SamplingParams(temperature=1.5, min_p=0.1),
    SamplingParams(temperature=2.0, top_k=30, top_p=0.9, min_p=0.05),
    SamplingParams(top_p=1e-6),
    SamplingParams(temperature=0.01),
]


def kept(logits, params):
    """The tokens that sampling may give, with a margin for rounding."""
    resolved = params.resolve(len(logits))
    order = np.argsort(-logits, kind="stable")[: resolved.top_k]
    weights = np.exp((logits[order] - logits.max()).astype(np.float64) / resolved.temperature)
    p = weights / weights.sum()
    within = (np.cumsum(p) - p < resolved.top_p + 1e-6) & (p > resolved.min_p * p[0] - 1e-6)
    return order[within]


def sampler(vocab_size, suppressed=()):
    """A function (logits [B,V], params, uniform [B]) → ids [B], computed by the graph alone."""
    g = GraphBuilder()
    g.input("logits", FLOAT, ["batch", "n", "V"])
    declare_sampling_inputs(g)
    add_sampling(g, "logits", vocab_size, suppressed)
    session = onnxruntime.InferenceSession(g.build("sampling", {}), providers=["CPUExecutionProvider"])

    def call(logits, params, uniform):
        resolved = params.resolve(logits.shape[1])
        feeds = {
            "logits": logits[:, None],
            "temperature": np.array([resolved.temperature], np.float32),
            "top_k": np.array([resolved.top_k], np.int64),
            "top_p": np.array([resolved.top_p], np.float32),
            "min_p": np.array([resolved.min_p], np.float32),
            "uniform": uniform,
        }
        return session.run(["next_token"], feeds)[0][:, 0]

    return call


@pytest.fixture(scope="module")
def draw():
    return sampler(97)


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_suppressed_ids_are_never_drawn_and_leave_the_rest_alone(params):
    random = np.random.default_rng(3)
    logits = (random.standard_normal((300, 11)) * 2).astype(np.float32)
    logits[:, [1, 2]] += 4
    uniform = random.random(300, dtype=np.float32)
    drawn = sampler(11, (1, 2))(logits, params, uniform)
    assert not np.isin(drawn, [1, 2]).any()
    assert (drawn != sample(logits, params, uniform, (1, 2))).sum() <= 1


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_graph_and_reference_choose_the_same_tokens(draw, params):
    random = np.random.default_rng(0)
    logits = (random.standard_normal((400, 97)) * 3).astype(np.float32)
    uniform = random.random(400, dtype=np.float32)
    differing = draw(logits, params, uniform) != sample(logits, params, uniform)
    # Two exponential functions may differ in the last bit, and a uniform number may fall right between.
    assert differing.sum() <= 1


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_extreme_uniform_numbers_stay_within_what_is_kept(draw, params):
    random = np.random.default_rng(1)
    logits = (random.standard_normal((64, 97)) * 3).astype(np.float32)
    lowest, highest = np.zeros(64, np.float32), np.full(64, np.nextafter(np.float32(1), np.float32(0)))
    assert draw(logits, params, lowest).tolist() == logits.argmax(axis=1).tolist()
    for row, token in zip(logits, draw(logits, params, highest), strict=True):
        assert token in kept(row, params)


def test_equal_logits_give_the_lower_id_first(draw):
    logits = np.zeros((1, 8), np.float32)
    for step, u in enumerate(np.arange(8, dtype=np.float32) / 8):
        assert draw(logits, SamplingParams(), np.array([u])) == [step]
    assert draw(logits, SamplingParams(temperature=0), np.array([0.9], np.float32)) == [0]


def test_every_row_of_a_batch_has_its_own_number(draw):
    logits = np.zeros((4, 4), np.float32)
    uniform = np.array([0.9, 0.1, 0.6, 0.3], np.float32)
    assert draw(logits, SamplingParams(), uniform).tolist() == [3, 0, 2, 1]
