from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from zoedge.runtime.data.buckets import (
    Limits,
    padded,
    split_by_length,
    split_by_shape,
)
from zoedge.runtime.device import FINE, Grain

TOKENS = FINE.tokens
LENGTHS = st.lists(st.integers(1, 130), min_size=1, max_size=40)
LIMITS = st.builds(
    Limits, st.none() | st.integers(1, 10), st.none() | st.integers(1, 400), st.none(), st.just(FINE)
)


def cost(lengths, parts):
    return sum(len(p) * padded(max(lengths[i] for i in p)) + FINE.overhead for p in parts)


def test_padded():
    assert [padded(n) for n in (1, TOKENS, TOKENS + 1)] == [TOKENS, TOKENS, 2 * TOKENS]
    assert padded(30, 31) == 31  # never beyond what the model takes
    assert padded(33, 31) == 33
    assert padded(33, None, Grain(tokens=32)) == 64


def test_where_a_pass_costs_more_rows_of_unlike_lengths_share_it():
    lengths = [8] * 8 + [40] * 8
    assert len(split_by_length(lengths, Limits())) == 2
    assert len(split_by_length(lengths, Limits(grain=Grain(overhead=1024)))) == 1


@given(LENGTHS, LIMITS)
def test_every_row_once_and_within_the_limits(lengths, limits):
    parts = split_by_length(lengths, limits)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        width = padded(max(lengths[row] for row in part))
        assert limits.rows is None or len(part) <= limits.rows
        assert limits.tokens is None or len(part) == 1 or len(part) * width <= limits.tokens


@given(LENGTHS)
def test_sorted_by_length_and_stable(lengths):
    order = [row for part in split_by_length(lengths, Limits()) for row in part]
    assert order == sorted(range(len(lengths)), key=lambda row: (lengths[row], row))


@given(st.lists(st.integers(1, 130), min_size=1, max_size=9))
def test_no_other_cut_is_cheaper(lengths):
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    cheapest = min(
        cost(lengths, [order[a:b] for a, b in pairwise([0, *cuts, len(order)])])
        for count in range(len(order))
        for cuts in combinations(range(1, len(order)), count)
    )
    assert cost(lengths, split_by_length(lengths, Limits())) == cheapest


def test_worked_examples():
    # two long rows among short ones: 2 * 4 + 2 * 100 + two passes beats 4 * 100 + one pass
    assert split_by_length([100, 3, 99, 4], Limits()) == [[1, 3], [2, 0]]
    # 4 against 8 tokens isn't worth a pass of its own
    assert split_by_length([8, 3, 7, 4], Limits()) == [[1, 3, 2, 0]]
    # pieces are of equal size, not 3 + 3 + 1
    assert [len(p) for p in split_by_length([4] * 7, Limits(rows=3))] == [2, 2, 3]
    assert [len(p) for p in split_by_length([4] * 6, Limits(tokens=8))] == [2, 2, 2]


@given(LENGTHS, st.integers(1, 8))
def test_fixed_batch_size_is_filled(lengths, fixed):
    parts = split_by_length([5] * len(lengths), Limits(rows=1, fixed=fixed))
    assert [len(p) for p in parts[:-1]] == [fixed] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= fixed


def test_fixed_batch_size_counts_the_rows_that_fill_it():
    # one pass of four rows at 100 costs 400; two passes would cost 4 * 4 + 4 * 100
    assert split_by_length([100, 3, 3, 3], Limits(fixed=4)) == [[1, 2, 3, 0]]


def test_by_shape():
    assert split_by_shape(["a", "b", "a", "b", "a"], Limits(rows=2)) == [[0], [2, 4], [1, 3]]
    assert split_by_shape(["a", "b", "a"], Limits(tokens=1)) == [[0, 2], [1]]  # tokens don't limit shapes
    assert split_by_shape(["a"] * 5, Limits(fixed=2)) == [[0, 1], [2, 3], [4]]
