"""Weight quantisation: what is stored, and how far it is from the weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgetext.errors import ExportError
from edgetext_export.quantize import check_finite, choose_block, quantise_blocks, quantise_columns

WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 70)),
    elements=st.floats(-100, 100, width=32),
)


@given(WEIGHTS)
def test_blocks_are_within_half_a_step(weight):
    q = quantise_blocks(weight)
    steps = np.repeat(q.scales, q.block, axis=1)[:, : q.width]
    assert q.dequantised().shape == weight.shape
    assert np.all(np.abs(q.dequantised() - weight) <= steps * 0.501 + 1e-30)


@given(WEIGHTS, st.sampled_from([63, 127]))
def test_columns_are_within_half_a_step_and_within_their_levels(weight, levels):
    q = quantise_columns(weight, levels)
    assert np.abs(q.values.astype(int)).max() <= levels
    assert np.all(np.abs(q.dequantised() - weight) <= q.scales * 0.501 + 1e-30)


@pytest.mark.parametrize(
    ("width", "block"), [(256, 128), (192, 64), (288, 64), (240, 128), (48, 16), (100, 16), (1, 32)]
)
def test_the_largest_block_is_taken_that_pads_a_row_by_an_eighth_at_most(width, block):
    assert choose_block(width) == block


def test_a_width_that_no_block_divides_is_padded_with_zeros():
    q = quantise_blocks(np.ones((2, 40 + 1), np.float32))
    assert (q.block, q.padded, q.width) == (32, 64, 41)
    assert np.all(q.values.reshape(2, 64)[:, 41:] == 128)


def test_all_zeros_stay_zero():
    assert not quantise_blocks(np.zeros((3, 32), np.float32)).dequantised().any()
    assert not quantise_columns(np.zeros((3, 32), np.float32), 127).dequantised().any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad):
    with pytest.raises(ExportError, match=r"lstm\.bias has 1 values that are NaN or infinite"):
        check_finite("lstm.bias", np.array([1.0, bad], np.float32))
