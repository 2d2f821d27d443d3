"""Rounded matrices: how near they are, and where their codes lie."""

import numpy as np
import pytest

from tests.builders.models import normal
from zoedge.export.surgery.rounding import INT4_BLOCK, INT8_LEVELS, round_int4, round_int8


def test_int8_is_within_half_a_step_and_never_saturates_pairs_of_products():
    matrix = normal((50, 7), 1)
    values, scales = round_int8(matrix)
    assert (values.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (7,))
    assert np.abs(values.astype(int)).max(axis=0).tolist() == [INT8_LEVELS] * 7
    assert 255 * 2 * INT8_LEVELS <= 32767
    assert (np.abs(values * scales - matrix) <= 0.501 * scales).all()


@pytest.mark.parametrize("width_in", [32, 70])
def test_int4_is_within_half_a_step_but_at_the_open_end(width_in):
    matrix = normal((width_in, 5), 2)
    values, scales = round_int4(matrix)
    blocks = -(-width_in // INT4_BLOCK)
    assert (values.dtype, values.shape) == (np.uint8, (5, blocks, INT4_BLOCK // 2))
    codes = np.stack([values & 15, values >> 4], -1).reshape(5, blocks, INT4_BLOCK)
    steps = scales.reshape(5, blocks, 1)
    dense = ((codes.astype(float) - 8) * steps).reshape(5, -1)[:, :width_in]
    bound = np.repeat(np.abs(steps), INT4_BLOCK, axis=2).reshape(5, -1)[:, :width_in]
    assert (np.abs(dense - matrix.T) <= 1.001 * bound).all()
    assert np.abs(dense - matrix.T).mean() < 0.3 * bound.mean()


def test_zeros_stay_zero():
    zeros = np.zeros((40, 3), np.float32)
    assert not round_int8(zeros).values.any()
    codes, scales = round_int4(zeros)
    assert not scales.any()
    assert (codes == 0x88).all()
