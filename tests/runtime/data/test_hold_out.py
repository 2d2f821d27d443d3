from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoedge.errors import DataError
from zoedge.runtime.data import hold_out


@given(st.integers(2, 300), st.floats(0.0, 0.99), st.integers(0, 2**64 - 1))
def test_deals_every_row_once(size, fraction, seed):
    expected = max(1, round(size * fraction)) if fraction else 0
    if expected >= size:
        with pytest.raises(DataError, match="leaves none to train on"):
            hold_out(size, fraction, seed)
        return
    kept, held = hold_out(size, fraction, seed)
    assert sorted([*kept, *held]) == list(range(size))
    assert len(held) == expected
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(held) > 0)


def test_seed_decides():
    assert hold_out(100, 0.1, 0)[1].tolist() == hold_out(100, 0.1, 0)[1].tolist()
    assert hold_out(100, 0.1, 0)[1].tolist() != hold_out(100, 0.1, 1)[1].tolist()
