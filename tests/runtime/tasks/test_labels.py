from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tests.builders.bundles import arrays
from zoedge.errors import DataError
from zoedge.manifest import Port
from zoedge.runtime.data.coded import Coded
from zoedge.runtime.tasks.labels import Labels

NAMED = Labels(arrays(labels=("no", "maybe", "yes")).manifest)
DIGITS = Labels(arrays(labels=("1", "2", "3")).manifest)
BARE = Labels(arrays(outputs=(Port(name="logits", dtype="float32", shape=("batch", 4)),)).manifest)
OPEN = Labels(arrays().manifest)
STARS = Labels(arrays(labels=("1", "1.5", "2")).manifest)
PADDED = Labels(arrays(labels=("01", "10")).manifest)
TWINS = Labels(arrays(labels=("1", "01")).manifest)
ZIPS = Labels(arrays(labels=("01234", "many")).manifest)
TRUTH = Labels(arrays(labels=("True", "False")).manifest)
BINARY = Labels(arrays(labels=("0", "1")).manifest)
NONE = Labels(arrays(labels=("None", "nan")).manifest)
LIAR = Labels(arrays(labels=("false", "half-true", "true")).manifest)


@pytest.mark.parametrize(
    ("labels", "value", "index"),
    [
        (NAMED, "maybe", 1),
        (NAMED, " yes ", 2),
        (NAMED, 2, 2),
        (NAMED, "0", 0),
        (NAMED, "1.0", 1),  # as tables with gaps write whole numbers
        (NAMED, np.uint8(1), 1),
        (NAMED, np.array([2]), 2),
        (NAMED, [1], 1),
        (DIGITS, 1, 0),  # a name first, and the same from JSON and from a table
        (DIGITS, "1", 0),
        (DIGITS, 1.0, 0),
        (DIGITS, "1.0", 0),
        (DIGITS, "01", 0),
        (DIGITS, " +3 ", 2),
        (DIGITS, "2e0", 1),
        (DIGITS, np.float32(3), 2),
        (DIGITS, True, 0),
        (DIGITS, b"2", 1),
        (STARS, 1.5, 1),
        (STARS, "1.50", 1),
        (PADDED, "1", 0),
        (PADDED, "10", 1),
        (TWINS, "01", 1),
        (ZIPS, "01234", 0),
        (TRUTH, True, 0),
        (TRUTH, np.False_, 1),
        (TRUTH, "TRUE", 0),
        (TRUTH, "false", 1),
        (TRUTH, 1, 0),  # a number by its value, not an index
        (TRUTH, "0.0", 1),
        (BINARY, True, 1),
        (BINARY, "FALSE", 0),
        (LIAR, "TRUE", 2),
        (LIAR, True, 2),
        (LIAR, 1, 1),  # not all are truth values, so none is a number
        (BARE, True, 1),
        (BARE, "3", 3),
        (OPEN, 999, 999),
    ],
)
def test_index(labels, value, index):
    assert labels.index(value, "x:1") == index


@pytest.mark.parametrize(
    ("labels", "value", "message"),
    [
        (NAMED, "Yes", r"x:1 has the label 'Yes', which this bundle doesn't know; did you mean yes\?"),
        (NAMED, 3, "has the label 3"),
        (NAMED, -1, "has the label -1"),
        (NAMED, 1.5, "has the label 1.5"),
        (NAMED, None, "has the label None, a missing value: fill it in or remove the row"),
        (NONE, None, "has the label None, a missing value"),
        (NONE, float("nan"), "has the label nan, a missing value"),
        (NAMED, " ", "has the label ' ', a missing value"),
        (NAMED, True, "has the label True, which"),  # which of three it means, nobody knows
        (NAMED, "TRUE", "has the label 'TRUE', which"),
        (DIGITS, 0, r"has the label 0, .*it knows 1, 2, 3; as they are numbers, none is taken as an index"),
        (DIGITS, "0.0", "has the label '0.0'"),
        (DIGITS, 4, "has the label 4"),
        (TWINS, 1.0, "has the label 1.0"),  # both are the number 1
        (TWINS, "001", "has the label '001'"),
        (ZIPS, 1, "has the label 1,"),
        (BINARY, "yes", "has the label 'yes'"),
        (BARE, "1_0", "has the label '1_0'"),
        (OPEN, 1e300, "has the label 1e"),
        (NAMED, [0, 1], r"has the label \[0, 1\]"),
        (NAMED, float("nan"), "has the label nan"),
        (NAMED, float("inf"), "has the label inf"),
        (
            BARE,
            4,
            "has the label 4, and this bundle's labels are whole numbers from 0 to 3: correct the data",
        ),
        (OPEN, "cat", "has the label 'cat', and this bundle's labels are whole numbers: correct the data"),
        (NAMED, "x" * 500, r"x\.\.\., which"),
    ],
)
def test_unknown(labels, value, message):
    with pytest.raises(DataError, match=message):
        labels.index(value, "x:1")


def test_many_names_are_cut():
    labels = Labels(arrays(labels=tuple(f"class {i}" for i in range(100))).manifest)
    with pytest.raises(DataError, match=r"class 18, class 19, \.\.\.\)"):
        labels.index("zebra", "x:1")


def test_best():
    logits = np.array([1000.0, 1001.0, -1000.0], np.float32)
    found = NAMED.best(logits)
    assert found["label"] == "maybe"
    assert found["score"] == pytest.approx(softmax(logits.astype(float))[1])
    assert BARE.best(np.array([0.0, 0.0, 9.0, 0.0]))["label"] == 2


@pytest.mark.parametrize(
    ("labels", "value", "names", "index"),
    [
        (NAMED, 0, ("yes", "no", "maybe"), 2),  # the data's order isn't the model's
        (NAMED, 2, ("YES", "No", "Maybe"), 1),
        (NAMED, 0, ("pos", "neg", "none"), 0),  # none is known: an index
        (DIGITS, 0, ("1", "2", "3"), 0),
        (DIGITS, 2, ("3", "2", "1.0"), 0),
        (TRUTH, 0, ("false", "true"), 1),
        (BARE, 3, ("a", "b", "c", "d"), 3),
    ],
)
def test_a_class_that_the_data_names(labels, value, names, index):
    assert labels.index(Coded.of(value, names), "x:1") == index


def test_a_name_of_the_data_that_is_no_class():
    with pytest.raises(
        DataError, match=r"x:1 has the label 1, which its data calls 'never', which this bundle"
    ):
        NAMED.index(Coded.of(1, ("no", "never")), "x:1")
    with pytest.raises(DataError, match="has the label -1, which"):
        NAMED.index(Coded.of(-1, ("no", "yes")), "x:1")
