from __future__ import annotations

import numpy as np
import pytest

from tests.builders.bundles import arrays
from zoedge.errors import DataError
from zoedge.runtime.data import Record
from zoedge.runtime.data.dataset import encode_rows
from zoedge.runtime.tasks import task_for


class Counting:
    """A task that counts what it encodes."""

    def __init__(self):
        self.inner = task_for(arrays(("batch", 2)))
        self.encoded = []

    def encode(self, record, *, labelled=True):
        self.encoded.append(record.where)
        return self.inner.encode(record, labelled=labelled)


def records(count=5, **changed):
    rows = [{"x0": np.full(2, i, np.float32), "label": i % 3} for i in range(count)]
    for where, value in changed.items():
        rows[int(where[1:])] |= value
    return [Record(row, f"row {i}") for i, row in enumerate(rows)]


def values(examples):
    return [(e.inputs["x0"].tolist(), int(e.targets["labels"])) for e in examples]


@pytest.mark.parametrize("keep", [0, 1 << 20])
def test_examples_in_order_whether_kept_or_not(keep):
    task = Counting()
    data = encode_rows(records(), task, keep_bytes=keep)
    expected = [([i, i], i % 3) for i in range(5)]
    assert len(data) == len(data.examples) == 5
    assert values(data.examples) == expected
    assert values(data.examples[1:4]) == expected[1:4]
    assert values(data.subset(np.array([3, 0])).examples) == [expected[3], expected[0]]
    assert len(task.encoded) == (5 if keep else 5 + 5 + 3 + 2)
    assert data.lengths.tolist() == [0] * 5


def test_a_bad_row_is_found_at_once():
    with pytest.raises(DataError, match="row 4 has the label 'cat'"):
        encode_rows(records(_4={"label": "cat"}), Counting(), keep_bytes=0)


def digest(rows, **kwargs):
    return encode_rows(rows, Counting(), **kwargs).digest


def test_digest_tells_data_apart():
    same = digest(records())
    assert digest(records()) == same
    assert digest(records(), keep_bytes=0) == same
    other = [
        records(4),
        records()[::-1],
        records(_1={"label": 2}),
        records(_1={"x0": np.array([1, 1.0000001], np.float32)}),
    ]
    assert len({same, *(digest(rows) for rows in other)}) == 5
    assert digest(records(_1={"note": "not encoded"})) == same


def test_digest_of_a_subset_is_that_of_its_rows():
    rows = records()
    whole = encode_rows(rows, Counting())
    chosen = np.array([4, 1])
    assert whole.subset(chosen).digest == digest([rows[4], rows[1]])
    assert whole.subset(chosen).digest != whole.subset(chosen[::-1]).digest


def test_without_labels():
    rows = [Record({"x0": [1, 2]}, "row 0")]
    data = encode_rows(rows, Counting(), labelled=False, keep_bytes=0)
    assert data.examples[0].targets["labels"] == 0
    with pytest.raises(DataError, match="row 0 has no label"):
        encode_rows(rows, Counting())
