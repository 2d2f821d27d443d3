"""Training rows of one target are said."""

import pytest

from tests.builders.bundles import arrays
from zoedge.runtime.data import Record
from zoedge.runtime.data.alike import alike_notes
from zoedge.runtime.data.dataset import encode_rows
from zoedge.runtime.tasks import task_for


def classes():
    return arrays(("batch", 2), labels=("no", "yes"))


def numbers():
    return arrays(("batch", 2), task="regression", target=("batch", 1), loss="mse")


@pytest.mark.parametrize(
    ("make", "labels", "shared"),
    [
        (classes, ["yes", "yes", "yes"], "the class yes"),
        (classes, ["yes", "no", "yes"], None),
        (classes, ["yes"], None),
        (numbers, [7.0, 7.0], "one and the same target"),
        (numbers, [7.0, 7.5], None),
    ],
)
def test_one_target_for_all_rows(make, labels, shared):
    made = make()
    rows = [Record({"x": [0.5, index], "label": label}, f"x:{index}") for index, label in enumerate(labels)]
    notes = alike_notes(encode_rows(rows, task_for(made)), made.manifest)
    start = f"all {len(labels)} training rows have {shared}: the model can learn only to answer that; "
    assert [note.startswith(start) for note in notes] == ([True] if shared else [])
