"""The fast sampling chooses what the reference chooses, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference_sampling import sample

from edgetext_runtime.numpy_sampling import choose, largest
from edgetext_runtime.sampling import SamplingParams

FEW_VALUES = st.sampled_from([-np.inf, -1e30, -2.5, -0.0, 0.0, 1e-45, 0.3, 7.0])
LOGITS = arrays(np.float32, st.integers(1, 70), elements=FEW_VALUES | st.floats(-20, 20, width=32))
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 0.001, 0.5, 1, 1000]),
    top_k=st.integers(0, 80),
    top_p=st.sampled_from([1e-40, 0.2, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 0.999]),
)


@settings(max_examples=500, deadline=None)
@given(LOGITS, PARAMS, st.floats(0, 1, exclude_max=True, width=32))
def test_choice_is_that_of_the_reference(logits, params, uniform):
    with np.errstate(all="ignore"):
        expected = sample(logits[None], params, np.array([uniform], np.float32))[0]
        assert choose(logits.copy(), params.resolve(len(logits)), uniform) == expected


@settings(max_examples=200, deadline=None)
@given(LOGITS, st.integers(1, 70))
def test_order_is_descending_and_ties_go_by_id(logits, count):
    expected = np.argsort(-logits, kind="stable")[:count]
    np.testing.assert_array_equal(largest(logits, count), expected)


def test_large_vocabulary():
    random = np.random.default_rng(0)
    logits = random.standard_normal(5000).astype(np.float32).round(1)  # many are equal
    for top_k in (0, 1, 40, 1249, 1250, 4999):
        params = SamplingParams(temperature=0.8, top_k=top_k, top_p=0.99)
        for uniform in random.random(20, dtype=np.float32):
            expected = sample(logits[None], params, np.array([uniform]))[0]
            assert choose(logits.copy(), params.resolve(5000), float(uniform)) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_logits_that_are_no_numbers_give_some_token(value, top_k):
    params = SamplingParams(top_k=top_k).resolve(50)
    some = np.arange(50, dtype=np.float32)
    some[::2] = value
    with np.errstate(all="ignore"):
        for logits in (np.full(50, value, np.float32), some):
            assert 0 <= choose(logits, params, 0.5) < 50
