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


@given(st.lists(st.integers(0, 5), min_size=4, max_size=200), st.floats(0.05, 0.6), st.integers(0, 2**64 - 1))
def test_classes_are_held_out_by_their_share(classes, fraction, seed):
    of_rows, size = np.array(classes), len(classes)
    count = max(1, round(size * fraction))
    kept, held = hold_out(size, fraction, seed, of_rows)
    assert sorted([*kept, *held]) == list(range(size))
    assert len(held) == count
    sizes = np.bincount(of_rows, minlength=6)
    got = np.bincount(of_rows[held], minlength=6)
    several = sizes >= 2
    if (sizes - 1).clip(0).sum() >= count:  # enough rows to leave one of each class
        assert (got < sizes)[sizes > 0].all()
        if count >= several.sum():
            assert (got[several] >= 1).all()
            apart = np.abs(got - sizes * count / size)[several]
            assert apart.max(initial=0.0) <= several.sum() + (sizes == 1).sum()


def test_two_classes_of_unequal_size():
    classes = np.array([0] * 95 + [1] * 5)
    for seed in range(20):
        held = hold_out(100, 0.2, seed, classes)[1]
        assert np.bincount(classes[held]).tolist() == [19, 1]


def test_with_one_class_only_the_split_is_the_plain_one():
    plain, by_class = hold_out(50, 0.2, 3), hold_out(50, 0.2, 3, np.zeros(50, np.int64))
    assert [part.tolist() for part in plain] == [part.tolist() for part in by_class]


def test_more_classes_than_rows_represent_the_largest():
    classes = np.array([0] * 3 + [1] * 10 + [2] * 7)
    assert sorted(classes[hold_out(20, 0.1, 0, classes)[1]]) == [1, 2]
