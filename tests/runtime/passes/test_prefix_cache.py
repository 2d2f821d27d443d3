"""Rows read back have the bits that computing gives, whatever a pass's rows, or they are not read back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoedge.runtime.passes.prefix_cache import PrefixCache
from zoedge.runtime.passes.row_store import RowStore

DTYPES = [np.float32, np.float16, np.float64, np.int64, np.int32, np.uint8, np.bool_]


class Kernels:
    """A part of a graph: counts its passes, and may compute some of them otherwise."""

    def __init__(self, *, odd=lambda rows: False, company=False, layout=((np.float32, (4,)),)):
        self.passes, self._odd, self._company, self._layout = [], odd, company, layout

    def __call__(self, inputs):
        x = inputs["x"]
        self.passes.append(len(x))
        if self._odd(x):
            x = np.nextafter(x, np.float32(9))
        scale = np.abs(x).max() if self._company else np.float32(1)
        total = (x.reshape(len(x), -1) / scale).sum(axis=1)
        return {
            f"y{i}": self._result(total, np.dtype(kind), shape)
            for i, (kind, shape) in enumerate(self._layout)
        }

    def _result(self, total, kind, shape):
        bits = np.frombuffer(b"".join(t.tobytes() * 2 for t in total), np.uint8).reshape(len(total), 8)
        size = int(np.prod(shape)) * kind.itemsize
        raw = np.resize(bits.T, (size, len(total))).T if size else np.empty((len(total), 0), np.uint8)
        raw = raw % 2 if kind == np.bool_ else raw
        return np.ascontiguousarray(raw).view(kind).reshape(len(total), *shape)


def data(count, width=3, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def cache(folder, most=1 << 20, **settings):
    return PrefixCache(RowStore(folder, most), **settings)


def check(kept, kernels, x):
    """Run rows and hold them against what they are without a cache; return the passes it took."""
    before = len(kernels.passes)
    got = kept.run(kernels, {"x": x})
    passes = kernels.passes[before:]
    wanted = kernels({"x": x})
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        assert got[name].tobytes() == array.tobytes()
    return passes


FLOAT = (np.float32, (1,))  # holds all that a kernel's sum is: of a few bits, too many agree by accident
RESULTS = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3).map(tuple))


@given(
    layout=st.lists(RESULTS, max_size=3).map(lambda more: [FLOAT, *more]),
    passes=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=8),
    most=st.sampled_from([0, 100, 1 << 20]),
    odd=st.sets(st.integers(1, 6)),
    company=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_results_are_those_of_computing(tmp_path_factory, layout, passes, most, odd, company):
    """Any shapes and types, any rows, kernels that differ by the number of rows or read the rows beside."""
    x = data(10)
    kernels = Kernels(odd=lambda rows: len(rows) in odd, company=company, layout=layout)
    kept = cache(tmp_path_factory.getbasetemp(), most)
    for rows in passes:
        check(kept, kernels, x[rows])
    kept.close()


def test_a_row_is_computed_once(tmp_path):
    kernels, kept, x = Kernels(), cache(tmp_path), data(8)
    assert check(kept, kernels, x) == [8, 2, 2]  # its ends beside their copies
    assert check(kept, kernels, x[::-1]) == []
    assert check(kept, kernels, x[[3, 3, 5, 0, 1, 2, 4, 7]]) == []


def test_only_what_is_missing_is_computed(tmp_path):
    kernels, kept, x = Kernels(), cache(tmp_path), data(12)
    check(kept, kernels, x[:8])
    assert check(kept, kernels, x[4:]) == [4, 2, 2]  # four rows are a new shape
    assert check(kept, kernels, x[[0, 9, 1, 10, 2, 11, 3, 8]]) == []


def test_a_shape_is_tested_against_what_is_kept(tmp_path):
    """The pass would have been computed anyway: no further one is spent on it."""
    kernels, kept, x = Kernels(), cache(tmp_path), data(8)
    check(kept, kernels, x)
    assert check(kept, kernels, x[:5]) == [5]
    assert check(kept, kernels, x[3:]) == []


@pytest.mark.parametrize("position", [0, 2, 5])
def test_a_shape_whose_kernel_differs_anywhere_is_computed(tmp_path, position):
    """Its rows are known, so each of them is compared."""

    class Odd(Kernels):
        def __call__(self, inputs):
            x = inputs["x"].copy()
            if len(x) == 6:
                x[position] += 1
            return super().__call__({"x": x})

    kernels, kept, x = Odd(), cache(tmp_path), data(9)
    check(kept, kernels, x)
    assert check(kept, kernels, x[:6]) == [6]
    assert check(kept, kernels, x[:6]) == [6]
    assert check(kept, kernels, x[:5]) == [5]
    assert check(kept, kernels, x[:5]) == []


@pytest.mark.parametrize("end", [0, -1])
def test_a_new_shape_whose_kernel_differs_at_an_end_is_not_kept(tmp_path, end):
    class Odd(Kernels):
        def __call__(self, inputs):
            x = inputs["x"].copy()
            if len(x) == 6:
                x[end] += 1
            return super().__call__({"x": x})

    kernels, kept, x = Odd(), cache(tmp_path), data(9)
    check(kept, kernels, x[:6])
    assert not kept.useful
    assert check(kept, kernels, x) == [9, 2, 2]
    assert check(kept, kernels, x[:6]) == [6]


def test_a_single_row_may_have_a_kernel_of_its_own(tmp_path):
    kernels, kept, x = Kernels(odd=lambda rows: len(rows) == 1), cache(tmp_path), data(4)
    assert check(kept, kernels, x[:1]) == [1, 2]
    check(kept, kernels, x)
    assert check(kept, kernels, x[:1]) == [1]
    assert check(kept, kernels, x) == []


def test_a_single_missing_row_with_a_kernel_of_its_own_is_computed_in_its_company(tmp_path):
    kernels, kept, x = Kernels(odd=lambda rows: len(rows) == 1), cache(tmp_path), data(5)
    check(kept, kernels, x[:4])
    assert check(kept, kernels, x[1:]) == [1, 2, 4]
    assert check(kept, kernels, x[1:]) == []
    kept = cache(tmp_path)
    check(kept, kernels, x[:1])
    check(kept, kernels, x[:4])
    assert check(kept, kernels, x[1:]) == [4]  # a shape known to differ isn't tried again


def test_rows_that_depend_on_their_company_are_never_kept(tmp_path):
    kernels, kept, x = Kernels(company=True), cache(tmp_path), data(8)
    for _ in range(2):
        check(kept, kernels, x)
        check(kept, kernels, x[2:7])
    assert not kept.useful


def test_company_shows_only_between_different_rows(tmp_path):
    """A pass of copies, and one with the same row at both ends, prove nothing about others of their size."""
    kernels, kept, x = Kernels(company=True), cache(tmp_path), data(4)
    for rows in ([0, 0], [0, 1], [1, 0], [0, 1, 0], [0, 1, 2], [1, 0, 1], [1], [0], [1, 0]):
        check(kept, kernels, x[rows])


def test_the_same_row_at_another_length_is_another_entry(tmp_path):
    kernels, kept, x = Kernels(), cache(tmp_path), data(4)
    check(kept, kernels, x)
    longer = np.pad(x, ((0, 0), (0, 1)))
    assert check(kept, kernels, longer) == [4, 2, 2]
    assert check(kept, kernels, longer) == check(kept, kernels, x) == []


def test_the_same_bytes_in_another_shape_are_another_entry(tmp_path):
    kernels, kept, x = Kernels(), cache(tmp_path), data(4, 6)
    check(kept, kernels, x)
    assert check(kept, kernels, x.reshape(4, 2, 3)) == [4, 2, 2]


def test_inputs_are_told_apart_by_their_names_and_types(tmp_path):
    kept, x = cache(tmp_path), data(4)
    for inputs in ({"a": x, "b": 2 * x}, {"a": 2 * x, "b": x}, {"a": x.view(np.int32), "b": 2 * x}):
        got = kept.run(lambda given: {"y": given["a"] - given["b"]}, inputs)
        np.testing.assert_array_equal(got["y"], inputs["a"] - inputs["b"])


def test_a_full_cache_keeps_what_it_has_and_adds_nothing(tmp_path):
    kernels, x = Kernels(), data(6)
    kept = cache(tmp_path, most=3 * 16)
    check(kept, kernels, x)
    assert check(kept, kernels, x[:3]) == [3]
    assert check(kept, kernels, x[:3]) == []
    assert check(kept, kernels, x[4:]) == [2]  # not even tested
    assert check(kept, kernels, x[[0, 4, 1, 5]]) == [4, 2]  # an end is known, the other isn't
    assert check(kept, kernels, x[[0, 4, 1, 5]]) == [2, 2, 2]
    assert check(kept, kernels, x[[0, 4, 1, 5]]) == [2]


def test_one_row_a_pass_needs_no_larger_one(tmp_path):
    kernels, kept, x = Kernels(), cache(tmp_path, copies=1), data(3)
    for row in range(3):
        assert set(check(kept, kernels, x[row : row + 1])) == {1}
        assert check(kept, kernels, x[row : row + 1]) == []


def test_a_fixed_number_of_rows_is_kept_to(tmp_path):
    kernels, kept, x = Kernels(), cache(tmp_path, copies=4, fixed=True), data(6)
    assert check(kept, kernels, x[:4]) == [4, 4, 4]
    assert check(kept, kernels, x[2:]) == [4]
    assert check(kept, kernels, x[[5, 4, 1, 1]]) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_without_an_axis_of_rows_are_not_kept(tmp_path, count):
    """Where as many as a pass's rows come by chance, the copies show it."""
    kept = cache(tmp_path)
    for rows in (3, 4, 2, 1, 3, 2) if count != 2 else (4, 3, 1, 4):
        got = kept.run(lambda given: {"y": np.zeros(count)}, {"x": data(rows)})
        np.testing.assert_array_equal(got["y"], np.zeros(count))
    assert not kept.useful


@pytest.mark.parametrize("fails", ["pwrite", "pread"])
def test_a_disk_that_fails_ends_it_with_a_note(tmp_path, monkeypatch, fails):
    kernels, kept, x = Kernels(), cache(tmp_path), data(8)
    check(kept, kernels, x[:4])
    assert kept.news() is None

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os." + fails, fail)
        check(kept, kernels, x)
    assert kept.news() == (
        "results of the layers before the first trained one are not kept on disk any more "
        "(No space left on device): steps take longer, with the same results"
    )
    assert kept.news() is None
    assert check(kept, kernels, x) == [8]


def test_a_cut_file_is_never_served(tmp_path):
    import os

    store = RowStore(tmp_path, 1 << 20)
    kernels, kept, x = Kernels(), PrefixCache(store), data(4)
    check(kept, kernels, x)
    os.ftruncate(store._handle, 20)
    assert check(kept, kernels, x) == [4]
    assert "not what was written" in kept.news()


def test_a_pass_that_fails_is_not_taken_for_the_disk(tmp_path):
    from zoedge.errors import ZoedgeError

    def fail(inputs):
        raise ZoedgeError("the forward pass failed")

    kept = cache(tmp_path)
    with pytest.raises(ZoedgeError):
        kept.run(fail, {"x": data(3)})
    assert kept.news() is None


def test_results_can_be_written_to(tmp_path):
    kernels, kept, x = Kernels(), cache(tmp_path), data(4)
    kept.run(kernels, {"x": x})
    got = kept.run(kernels, {"x": x})["y0"]
    got[...] = 0
    check(kept, kernels, x)
