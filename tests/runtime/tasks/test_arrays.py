from __future__ import annotations

import numpy as np
import pytest

from tests.builders.bundles import arrays, bundle
from zoedge.errors import BundleError, DataError
from zoedge.manifest import Port
from zoedge.runtime.data import KeyNames, Record, read
from zoedge.runtime.tasks import TASKS, task_for
from zoedge.runtime.tasks.arrays import fitted

FOUR = Port(name="x0", dtype="float32", shape=("batch", 1, 2, 2))


def record(**fields):
    return Record(fields, "data.csv:7")


def encode(made, *, labelled=True, **fields):
    return task_for(made).encode(record(**fields), labelled=labelled)


# -- inputs -------------------------------------------------------------------------------------------------


def test_fields_named_like_the_inputs():
    example = encode(
        arrays(("batch", 2), names=("a", "b")), a=[1, 2], b=np.array([3, 4], np.uint8), label=0, c="x"
    )
    assert {n: (v.tolist(), v.dtype) for n, v in example.inputs.items()} == {
        "a": ([1.0, 2.0], np.float32),
        "b": ([3.0, 4.0], np.float32),
    }


def test_table_columns_fill_the_only_input_in_order(tmp_path):
    (tmp_path / "d.csv").write_text("id,c,a,label,b\nfirst,3,1e-1,yes,-2\n")
    task = task_for(arrays(labels=("no", "yes")))
    (example,) = [task.encode(r) for r in read(tmp_path / "d.csv")]
    np.testing.assert_allclose(example.inputs["x0"], [3, 0.1, -2], rtol=1e-7)
    assert example.targets["labels"] == 1


def test_only_the_label_column_is_left_out(tmp_path):
    (tmp_path / "d.csv").write_text("a,y,b,kind\n1,2,3,0\n")
    (example,) = [task_for(arrays()).encode(r) for r in read(tmp_path / "d.csv", keys=KeyNames(label="kind"))]
    assert example.inputs["x0"].tolist() == [1, 2, 3]


def test_prediction_leaves_the_label_column_out_too():
    assert encode(arrays(), labelled=False, a="1", b="2", c="3", label="0").inputs["x0"].tolist() == [1, 2, 3]


def test_the_only_array_fills_the_only_input():
    example = encode(arrays(("batch", 1, 2, 2)), images=np.arange(4, dtype=np.uint8).reshape(2, 2), labels=3)
    assert example.inputs["x0"].tolist() == [[[0, 1], [2, 3]]]


def test_an_input_that_is_called_like_a_label():
    example = encode(arrays(("batch", 2), names=("y",)), y=[1, 2], target=1)
    assert example.inputs["y"].tolist() == [1, 2]
    assert example.targets["labels"] == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(4).reshape(1, 2, 2), [[[0, 1], [2, 3]]]),
        (np.arange(4).reshape(2, 2), [[[0, 1], [2, 3]]]),
        (np.arange(4).reshape(2, 2, 1), [[[0, 1], [2, 3]]]),
        ([0, 1, 2, 3], [[[0, 1], [2, 3]]]),
        (["0", "1", "2", "3"], [[[0, 1], [2, 3]]]),
    ],
)
def test_fitted(value, expected):
    assert fitted(value, FOUR, "x:1").tolist() == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0, 1, 2], r"x:1 has an array of shape \[3\] for x0, which takes \[1, 2, 2\]"),
        (np.zeros((4, 1, 1)), r"has an array of shape \[4, 1, 1\]"),
        ("cat", "has 'cat' for x0, which takes numbers: correct the value"),
        (["1_000", "2", "3"], "has .* for x0, which takes numbers"),
        ([[1, 2], [3]], r"has \[\[1, 2\], \[3\]\] for x0, which takes numbers"),
        (None, "has None for x0, which is no finite float32"),
        ([0, 1, 2, float("nan")], "which is no finite float32: correct it"),
        ([0, 1, 2, 1e300], "which is no finite float32"),
    ],
)
def test_values_that_do_not_fit(value, message):
    with pytest.raises(DataError, match=message):
        fitted(value, FOUR, "x:1")


def test_whole_numbers_stay_whole():
    port = Port(name="ids", dtype="int64", shape=("batch", "n"))
    assert fitted([1.0, 2.0], port, "x:1").tolist() == [1, 2]
    with pytest.raises(DataError, match=r"has \[1.5\] for ids, which takes whole numbers"):
        fitted([1.5], port, "x:1")


def test_dynamic_axes_take_any_size():
    port = Port(name="wave", dtype="float32", shape=("batch", 2, "time"))
    assert fitted(np.zeros((2, 7)), port, "x:1").shape == (2, 7)
    with pytest.raises(DataError, match=r"which takes \[2, 'time'\]"):
        fitted(np.zeros((3, 7)), port, "x:1")


@pytest.mark.parametrize(
    ("made", "fields", "message"),
    [
        (arrays(), {"a": "1", "b": "2", "label": "0"},
         r"data\.csv:7 has 2 columns of numbers besides the label: a, b, and the input x0 takes 3: give one column"),
        (arrays(), {"a": "1", "b": "", "c": "x", "label": "0"}, r"has 1 columns .*\(not numbers: b = '', c = 'x'\)"),
        (arrays(("batch", "n")), {"a": "1", "label": "0"}, "has 1 columns of numbers .* the input x0 takes n"),
        (arrays(names=("a", "b")), {"a": [1, 2, 3], "label": 0}, "has no input 'b': looked for a, b, .* are a, label"),
        (arrays(names=("a", "b")), {"c": "1", "label": 0}, "has no input 'a'"),
        (arrays(), {"p": np.zeros(3), "q": np.zeros(3), "label": 0}, "has no input 'x0'"),
        (arrays(), {"text": "a cat", "label": 0}, "has no input 'x0': looked for x0, its fields are text, label"),
        (arrays(), {"x0": [1, 2, 3]}, "has no label"),
    ],
)  # fmt: skip
def test_records_that_do_not_fit(made, fields, message):
    with pytest.raises(DataError, match=message):
        encode(made, **fields)


# -- targets and predictions --------------------------------------------------------------------------------


def test_classification():
    made = arrays(labels=("no", "yes"))
    example = encode(made, x0=[1, 2, 3], label="yes")
    assert example.targets["labels"] == 1
    assert example.targets["labels"].shape == ()
    found = task_for(made).prediction(example, {"logits": np.array([0.0, np.log(3.0)])})
    assert found == {"label": "yes", "score": pytest.approx(0.75)}


def test_several_yes_or_no_labels():
    made = arrays(target=("batch", 2), loss="bce-with-logits", labels=("cat", "dog"))
    example = encode(made, x0=[1, 2, 3], labels=[1, 0])
    assert example.targets["labels"].tolist() == [1.0, 0.0]
    assert example.targets["labels"].dtype == np.float32
    found = task_for(made).prediction(example, {"logits": np.array([np.log(3.0), -1000.0])})
    assert found == {"labels": ["cat"], "scores": pytest.approx([0.75, 0.0])}
    assert encode(made, labelled=False, x0=[1, 2, 3]).targets["labels"].tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match=r"shape \[3\] for labels, which takes \[2\]"):
        encode(made, x0=[1, 2, 3], labels=[1, 0, 1])


def test_one_yes_or_no_label_from_a_table():
    made = arrays(target=("batch", 1), loss="bce-with-logits")
    assert encode(made, a="1", b="2", c="3", label="1").targets["labels"].tolist() == [1.0]


@pytest.mark.parametrize("labels", [[-1, 1], [0, 2], [1.5, 0.5]])
def test_labels_of_each_class_beyond_0_and_1_are_refused(labels):
    made = arrays(target=("batch", 2), loss="bce-with-logits")
    with pytest.raises(DataError, match="bce-with-logits takes 0 for no, 1 for yes and shares between them"):
        encode(made, x0=[1, 2, 3], labels=labels)
    assert encode(made, x0=[1, 2, 3], labels=[0.25, 1]).targets["labels"].tolist() == [0.25, 1.0]


@pytest.mark.parametrize(("shape", "expected"), [(("batch",), 2.5), (("batch", 1), [2.5])])
def test_regression(shape, expected):
    made = arrays(task="regression", target=shape, loss="mse")
    example = encode(made, a="1", b="2", c="3", target="2.5")
    assert example.targets["labels"].tolist() == expected
    assert task_for(made).prediction(example, {"logits": np.array([1.5], np.float32)}) == {"value": 1.5}
    assert encode(made, labelled=False, a=1, b=2, c=3).targets["labels"].shape == shape[1:]


def test_regression_of_several_numbers(tmp_path):
    (tmp_path / "d.csv").write_text("a,h,b,w,c\n1,10,2,20,3\n")
    made = arrays(task="regression", target=("batch", 2), loss="mse")
    (example,) = [task_for(made).encode(r) for r in read(tmp_path / "d.csv", keys=KeyNames(label="h,w"))]
    assert example.inputs["x0"].tolist() == [1, 2, 3]
    assert example.targets["labels"].tolist() == [10, 20]
    assert task_for(made).prediction(example, {"logits": np.array([1.0, 2.0])}) == {"value": [1.0, 2.0]}
    with pytest.raises(DataError, match="has 'tall' for labels, which takes numbers"):
        encode(made, x0=[1, 2, 3], label="tall")


def test_task_of_a_newer_zoedge():
    made = bundle(arrays().folder, "segmentation", (), ())
    with pytest.raises(
        BundleError, match="is for 'segmentation', which this zoedge can't do: upgrade zoedge"
    ):
        task_for(made)


def test_every_task_of_the_manifest_is_there():
    assert set(TASKS) == {
        "text-classification", "text-generation", "fill-mask", "image-classification", "classification", "regression",
    }  # fmt: skip
