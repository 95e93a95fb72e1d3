"""The int8 arithmetic against loops over single numbers, in numpy's float32."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgetext.models.config import choose_block
from edgetext.quantization import activation_block_levels, activation_byte_levels, block_levels, row_levels

ROWS = arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 70)), elements=st.floats(-100, 100, width=32)
)
ONE = np.float32(1)


def weight_scale(values, levels):
    scale = np.abs(values).max() / np.float32(levels)
    return scale if scale >= np.finfo(np.float32).tiny else ONE


def each_block(row, block):
    """Yield (number of the block, number within it, value) of a row."""
    for k, value in enumerate(row):
        yield k // block, k % block, value


@given(ROWS)
def test_weights_by_block(weight):
    block = choose_block(weight.shape[1])
    levels, scales = (part.numpy() for part in block_levels(torch.tensor(weight)))
    for n, row in enumerate(weight):
        for b, k, value in each_block(row, block):
            scale = weight_scale(row[b * block : (b + 1) * block], 127)
            assert scales[n, b] == scale
            assert levels[n, b, k] == np.clip(np.rint(value / scale), -127, 127)


@given(ROWS, st.sampled_from([63, 127]))
def test_weights_by_row(weight, most):
    levels, scales = (part.numpy() for part in row_levels(torch.tensor(weight), most))
    for n, row in enumerate(weight):
        scale = weight_scale(row, most)
        assert scales[n, 0] == scale
        assert levels[n].tolist() == [np.clip(np.rint(value / scale), -most, most) for value in row]


@given(ROWS)
def test_activations_by_block(x):
    block = choose_block(x.shape[1])
    levels, scales = (part.numpy() for part in activation_block_levels(torch.tensor(x)))
    for n, row in enumerate(x):
        for b, k, value in each_block(row, block):
            peak = np.abs(row[b * block : (b + 1) * block]).max()
            assert scales[n, b] == peak / np.float32(127)
            with np.errstate(divide="ignore", over="ignore"):
                inverse = np.float32(127) / peak
            assert levels[n, b, k] == (np.rint(value * inverse) if np.isfinite(inverse) else 0)


@given(ROWS)
def test_activations_by_byte(x):
    levels, scales = (part.numpy() for part in activation_byte_levels(torch.tensor(x)))
    for n, row in enumerate(x):
        low, high = min(row.min(), np.float32(0)), max(row.max(), np.float32(0))
        scale = (high - low) / np.float32(255)
        scale = scale if scale > 0 else ONE
        zero = np.rint(np.clip(-low / scale, 0, 255))
        stored = [np.clip(np.rint(value / scale) + zero, 0, 255) for value in row]
        assert scales[n, 0] == scale
        assert (levels[n] + zero).tolist() == stored


@given(ROWS.map(lambda x: x[:, :1].repeat(40, axis=1) * np.linspace(-1, 1, 40, dtype=np.float32)))
def test_values_come_back_within_a_step(x):
    value = torch.tensor(x)
    bytes_, blocks = activation_byte_levels(value), activation_block_levels(value)
    whole = bytes_.scales * 1.001  # the zero point is rounded as well, so a whole step
    half = blocks.scales.repeat_interleave(32, dim=-1)[:, :40] * 0.501
    assert ((bytes_.dequantised(40) - value).abs() <= whole + 1e-30).all()
    assert ((blocks.dequantised(40) - value).abs() <= half + 1e-30).all()


@pytest.mark.parametrize("quantise", [activation_byte_levels, activation_block_levels, block_levels])
def test_zero_stays_zero_whatever_is_beside_it(quantise):
    x = torch.tensor([[0.0, 3.7, -0.2, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 5.0, 7.0, 0.1]])
    assert (quantise(x).dequantised(4)[x == 0] == 0).all()


@pytest.mark.parametrize(
    "quantise", [activation_byte_levels, activation_block_levels, block_levels, row_levels]
)
def test_rows_are_quantised_alone_and_in_the_precision_given(quantise):
    x = torch.randn(4, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = quantise(x).dequantised(41)
    assert whole.dtype == torch.float64
    assert torch.equal(whole[2:3], quantise(x[2:3]).dequantised(41))
