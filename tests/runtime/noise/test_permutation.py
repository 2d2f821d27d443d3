from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zoedge.runtime.noise.permutation import name_id, permutation

SEEDS = st.integers(0, 2**64 - 1)


@given(SEEDS, st.integers(0, 10**6), st.integers(1, 200))
def test_each_row_once(seed, index, size):
    assert sorted(permutation(seed, "test", index, size)) == list(range(size))


def test_specification():
    # the words of the stream, taken from NumPy's Philox step by step
    digest = hashlib.blake2b(b"test", digest_size=8).digest()
    key = np.array([7, int.from_bytes(digest, "little")], np.uint64)
    words = np.random.Philox(key=key, counter=[0, 3, 0, 0]).random_raw(100)
    expected = sorted(range(100), key=lambda row: (int(words[row]), row))
    assert permutation(7, "test", 3, 100).tolist() == expected


def test_pinned_so_that_runs_can_be_resumed_by_later_versions():
    assert permutation(0, "zoedge.batches", 0, 10).tolist() == [9, 1, 4, 3, 7, 0, 6, 8, 2, 5]


def test_arguments_matter():
    orders = {
        tuple(permutation(seed, purpose, index, 30))
        for seed in (0, 1, 2**64 - 1)
        for purpose in ("a", "b")
        for index in (0, 1)
    }
    assert len(orders) == 12


def test_name_id_takes_text_and_bytes():
    assert name_id("né") == name_id("né".encode()) != name_id("ne")
