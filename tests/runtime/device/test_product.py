"""Products of a tall and a small matrix: compiled and reference agree to the bit, and with float64 up to rounding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoedge.runtime.device import product as products
from zoedge.runtime.device.product_numba import product as compiled

FLOATS = st.floats(-1e6, 1e6, width=32)


@st.composite
def matrices(draw):
    n, rank = draw(st.integers(0, 40)), draw(st.integers(1, 20))
    shape = st.sampled_from([(n, rank)])
    u = draw(hnp.arrays(np.float32, shape, elements=FLOATS))
    return u, draw(hnp.arrays(np.float32, (rank, rank), elements=FLOATS))


@given(matrices())
def test_both_implementations_give_the_same_bits(given_):
    u, s = given_
    one, other = np.full_like(u, np.nan), np.full_like(u, np.nan)
    products.product(u, s, one)
    compiled(u, s, other)
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


def test_it_is_the_product():
    rng = np.random.default_rng(0)
    u, s = rng.standard_normal((50, 8)).astype(np.float32), rng.standard_normal((8, 8)).astype(np.float32)
    out = np.empty_like(u)
    products.product_here()(u, s, out)
    np.testing.assert_allclose(out, u.astype(np.float64) @ s, rtol=1e-4, atol=1e-5)


def test_without_numba_the_reference_runs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert products.product_here() is products.product
