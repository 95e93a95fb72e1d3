"""The numpy sampler follows its definition, and the graph follows the numpy sampler."""

import json

import numpy as np
import pytest
import tiny_bundle as tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_sampling import sample

from edgetext_runtime.errors import BundleError, InputError
from edgetext_runtime.sampling import GenerationDefaults, SamplingParams, check_seed
from edgetext_runtime.uniform import UniformStream

VOCAB = 20


def choose(logits, uniform=0.5, **params):
    row = np.array([logits], np.float32)
    return int(sample(row, SamplingParams(**params), np.array([uniform], np.float32))[0])


def test_greedy_takes_the_likeliest_and_of_equal_ones_the_first():
    assert choose([1.0, 3.0, 2.0], temperature=0, uniform=0.99) == 1
    assert choose([1.0, 2.0, 2.0], temperature=0, uniform=0.99) == 1


def test_uniform_number_walks_through_the_distribution_in_descending_order():
    logits = np.log([0.2, 0.5, 0.3])
    assert [choose(logits, u) for u in (0.0, 0.49, 0.51, 0.79, 0.81, 0.999)] == [1, 1, 2, 2, 0, 0]


def test_top_k_top_p_and_min_p_cut_the_tail():
    logits = np.log([0.1, 0.5, 0.3, 0.06, 0.04])
    assert choose(logits, 0.999, top_k=2) == 2
    assert choose(logits, 0.999, top_p=0.7) == 2
    assert choose(logits, 0.999, top_p=0.001) == 1
    assert choose(logits, 0.999, min_p=0.15) == 0
    assert choose(logits, 0.999, top_k=1000) == 4


def test_temperature_sharpens():
    logits = np.log([0.4, 0.6])
    assert choose(logits, 0.65) == 0
    assert choose(logits, 0.65, temperature=0.1) == 1


def test_rows_are_independent():
    logits = np.array([[0, 9, 0], [9, 0, 0]], np.float32)
    assert sample(logits, SamplingParams(), np.array([0.5, 0.5], np.float32)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", 1e-9),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", 1),
        ("min_p", -0.1),
    ],
)
def test_invalid_parameter_is_named_with_its_value_and_range(name, value):
    with pytest.raises(InputError, match=f"{name} is {value!r}; allowed is"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("seed", [-1, 1.0, "1", 2**64, True])
def test_invalid_seed(seed):
    with pytest.raises(InputError, match="seed is"):
        check_seed(seed)


def test_fresh_seeds_differ_and_the_stream_is_its_seed():
    assert check_seed(None) != check_seed(None)
    stream = UniformStream(7)
    expected = np.random.Generator(np.random.PCG64(7)).random(5, dtype=np.float32)
    assert [stream.next() for _ in range(5)] == expected.tolist()


def test_defaults_are_read_and_overridden():
    defaults = GenerationDefaults.from_json(b'{"temperature": 0.5, "max_new_tokens": 9}')
    assert defaults == GenerationDefaults(SamplingParams(temperature=0.5), 9)
    assert defaults.override(top_k=3, temperature=None).sampling == SamplingParams(0.5, top_k=3)
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        defaults.override(max_new_tokens=0)


@pytest.mark.parametrize(
    "settings_", [{"temperatur": 1}, {"top_p": 2}, {"max_new_tokens": "many"}, {"max_new_tokens": 2**31}]
)
def test_invalid_defaults_are_a_bundle_error(settings_):
    with pytest.raises(BundleError, match=r"generation\.json"):
        GenerationDefaults.from_json(json.dumps(settings_).encode())


@pytest.fixture(scope="module")
def echo():
    from edgetext_runtime import StepSession

    model, state = tiny.echo_model(VOCAB)
    return StepSession(model, tiny.manifest(VOCAB, state))


def run_graph(echo, logits, params, uniform):
    """Sample with the graph: the logits are written where the echo model keeps its state."""
    state = echo.new_state(len(logits))
    state._sides[state._turn][0].update_inplace(logits)
    tokens = np.zeros((len(logits), 1), np.int64)
    return echo.run(tokens, state, sampling=params, uniform=uniform).next_token


def away_from_ties(row, params, uniform, margin=1e-5):
    """Whether rounding cannot decide: no comparison of the definition is close, in float64."""
    resolved = params.resolve(len(row))
    top = np.sort(row.astype(np.float64))[::-1][: resolved.top_k] / resolved.temperature
    p = np.exp(top - top[0])
    p /= p.sum()
    c = np.cumsum(p)
    keep = (c - p < resolved.top_p) & (p >= resolved.min_p * p[0])
    n = max(1, int(np.logical_and.accumulate(keep).sum()))
    gaps = [abs(c - p - resolved.top_p).min(), abs(c[:n] - uniform * c[n - 1]).min()]
    if resolved.min_p > 0:
        gaps.append(abs(p[1:] - resolved.min_p * p[0]).min(initial=1))
    return min(gaps) > margin


@settings(max_examples=300, deadline=None)
@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=VOCAB, max_size=VOCAB),
    params=st.builds(
        SamplingParams,
        temperature=st.just(0) | st.floats(0.1, 3),
        top_k=st.integers(0, VOCAB + 5),
        top_p=st.floats(0.01, 1),
        min_p=st.just(0) | st.floats(0, 0.5),
    ),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
)
def test_graph_and_numpy_choose_the_same(echo, logits, params, uniform):
    row = np.array(logits, np.float32)
    assume(away_from_ties(row, params, uniform))
    draws = np.array([uniform], np.float32)
    assert run_graph(echo, row[None], params, draws).tolist() == sample(row[None], params, draws).tolist()


def test_graph_breaks_ties_by_id_like_numpy(echo):
    flat = np.zeros((1, VOCAB), np.float32)
    for uniform in (0.01, 0.33, 0.97):
        draws = np.array([uniform], np.float32)
        for params in (SamplingParams(), SamplingParams(top_k=7), SamplingParams(temperature=0)):
            assert run_graph(echo, flat, params, draws).tolist() == sample(flat, params, draws).tolist()


def test_graph_samples_a_batch_row_by_row(echo):
    rows = np.random.default_rng(0).standard_normal((5, VOCAB)).astype(np.float32)
    draws = np.linspace(0.05, 0.95, 5, dtype=np.float32)
    params = SamplingParams(temperature=0.8, top_k=9)
    assert run_graph(echo, rows, params, draws).tolist() == sample(rows, params, draws).tolist()
