"""Floats of every stored type: read exactly, rounded once."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoedge.runtime.adapters.floats import read_floats, write_floats


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1))
def test_bfloat16_survives(numbers):
    bits = np.array(numbers, "<u2")
    values = read_floats(bits.tobytes(), "BF16")
    np.testing.assert_array_equal(values, bits.view(ml_dtypes.bfloat16).astype(np.float64))
    again = np.frombuffer(write_floats(values, "BF16"), ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(again, values)  # NaN is equal to NaN here


@given(st.lists(st.floats(width=32), min_size=1))
def test_float32_is_rounded_as_others_do(numbers):
    values = np.array(numbers, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).astype(np.float64)
    found = np.frombuffer(write_floats(values.astype(np.float64), "BF16"), ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found.astype(np.float64), expected)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2.0**-8, 1.0),  # a tie goes to even
        (1 + 3 * 2.0**-8, 1 + 2.0**-6),
        (1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-7),  # above the tie, which float32 can't see
        (1 + 3 * 2.0**-8 - 2.0**-40, 1 + 2.0**-7),
        (-1 - 2.0**-8 - 2.0**-40, -1 - 2.0**-7),
        (1e300, np.inf),
        (1e-300, 0.0),
    ],
)
def test_a_float64_is_rounded_once(value, rounded):
    assert read_floats(write_floats(np.array([value]), "BF16"), "BF16") == [rounded]


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
def test_other_types_are_numpys(dtype):
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
    values = np.random.default_rng(0).standard_normal(9)
    assert write_floats(values, dtype) == values.astype(kind).tobytes()
    np.testing.assert_array_equal(read_floats(values.astype(kind).tobytes(), dtype), values.astype(kind))
