"""Which part of a tensor the liveness check changes."""

import numpy as np
import pytest

from zoedge.export.liveness import changed_part


@pytest.mark.parametrize("shape", [(), (5,), (1000, 100), (3_000_000,)])
def test_small_tensors_and_vectors_change_as_a_whole(shape):
    assert changed_part(np.zeros(shape, np.float32), {"ids": np.array([[1]])}) is ...


def test_of_large_matrices_rows_change_that_ids_look_up_and_some_others():
    buffer = np.zeros((50_000, 30), np.float32)
    inputs = {"ids": np.array([[777, 49_999], [3, -100]]), "x": np.array([5.5]), "labels": np.array([60_000])}
    rows = changed_part(buffer, inputs)
    assert {777, 49_999, 3, 0, 15} <= set(rows.tolist())
    assert len(rows) < 40
    assert rows.min() == 0
    assert rows.max() == 49_999
