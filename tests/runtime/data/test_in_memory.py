"""Rows in memory: every form gives the records that a file of them gives, and nothing else than InputError."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from zoedge.errors import DataError, InputError
from zoedge.runtime.data import InMemory, KeyNames, as_data, read

ROWS = [{"text": "a film", "label": "good"}, {"text": "dull", "label": "bad"}]
NUMBERS = [{"x": 0.5, "label": 1}, {"x": -2.0, "label": 0}]


class Indexed:
    """What torch calls a map-style data set: no end of iteration, only a length."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row % len(self.rows)]


def fields(records):
    return [dict(record.fields) for record in records]


FORMS = {
    "list": lambda rows: rows,
    "tuple": tuple,
    "generator": lambda rows: (row for row in rows),
    "mappings": lambda rows: [UserDict(row) for row in rows],
    "indexed": Indexed,
    "columns": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "arrays": lambda rows: {name: np.array([row[name] for row in rows]) for name in rows[0]},
    "polars": lambda rows: SimpleNamespace(to_dicts=lambda: rows, columns=list(rows[0])),
}


@pytest.mark.parametrize("rows", [ROWS, NUMBERS], ids=["text", "numbers"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_records(form, rows):
    records = read(FORMS[form](rows))
    assert fields(records) == rows
    assert [type(v) for v in records[0].fields.values()] == [type(v) for v in rows[0].values()]
    assert [r.where for r in records] == ["data[0]", "data[1]"]


@pytest.mark.parametrize("rows", [ROWS, NUMBERS], ids=["text", "numbers"])
def test_data_frames_and_tables(rows):
    import pandas

    assert fields(read(pandas.DataFrame(rows, index=[7, 3]))) == rows
    assert fields(read(pandas.DataFrame(rows).astype({"label": "category"}))) == rows
    import pyarrow

    assert fields(read(pyarrow.Table.from_pylist(rows))) == rows
    twice = pandas.DataFrame([[1, 2]], columns=["x", "x"])
    with pytest.raises(DataError, match="data has two columns called 'x'"):
        read(twice)


def test_hugging_face_data_sets():
    import datasets

    one = datasets.Dataset.from_list(ROWS)
    assert fields(read(one)) == ROWS
    assert fields(read(one.to_iterable_dataset())) == ROWS
    both = datasets.DatasetDict(train=one, validation=one.select([1]))
    assert fields(read(both)) == ROWS
    assert fields(read(both, "valid")) == ROWS[1:]
    with pytest.raises(
        DataError, match=r"rows in memory \(2 train, 1 valid\) has no test split: give a dict with"
    ):
        read(both, "test")


def test_one_set_is_train_and_test_and_leaves_validation_to_the_caller():
    assert fields(read(ROWS, "test")) == ROWS
    assert read(ROWS, "valid") is None


@pytest.mark.parametrize("form", ["list", "columns", "arrays", "polars"])
def test_splits_by_name(form):
    of = FORMS[form]
    data = {"train": of(ROWS), "dev": of(ROWS[1:])}
    assert fields(read(data, "train")) == ROWS
    assert fields(read(data, "valid")) == ROWS[1:]


def test_splits_as_the_names_of_arrays():
    data = {"x_train": np.zeros((3, 2)), "y_train": np.arange(3), "x_test": np.ones((1, 2)), "y_test": [1]}
    assert len(read(data)) == 3
    (record,) = read(data, "test")
    assert record.fields["x"].tolist() == [1.0, 1.0]
    assert record.fields["y"] == 1


def test_an_iterator_is_read_once():
    given = as_data(row for row in ROWS)
    assert fields(read(given)) == fields(read(given)) == ROWS
    assert as_data(given) is given


def test_names_of_fields_are_those_of_the_user():
    (first, _) = read(
        [{"review": "a", 0: "x"}, {"review": "b", 0: "y"}], keys=KeyNames(text="review", label="0")
    )
    assert first.fields == {"text": "a", "label": "x"}


def test_broken_surrogates_are_replaced_and_counted():
    (record,) = read([{"text": "great \ud83d", "turns": [{"value": "\udcff\ud83c\udfac"}], "n": [1, 2]}])
    assert record.fields == {"text": "great \ufffd", "turns": [{"value": "\ufffd🎬"}], "n": [1, 2]}
    assert record.replaced == 2


class Breaks:
    """Raises whatever is asked of it."""

    def __iter__(self):
        raise AttributeError("no such thing\nhere")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "data is the NoneType None, which holds no named fields: give a path, a list of dicts"),
        (3, "the int 3"),
        (b"rows.csv", r"the bytes b'rows\.csv'"),
        (len, "builtin_function_or_method"),
        (object, "the type <class 'object'>"),
        (["good film"], r"data\[0\] is the str 'good film': give a dict for each row"),
        ([("a", "b")], r"data\[0\] is the tuple"),
        ({"text": "a", "label": "b"}, r"data\['text'\] is the str 'a': give a list or an array"),
        ({"text": ["a"], "label": None}, r"data\['label'\] is the NoneType None"),
        ({"text": ["a", "b"], "label": [1]}, r"columns of different lengths \(text 2, label 1\)"),
        ({}, "data is an empty dict"),
        ([], "has no rows in its train split"),
        (iter(()), "has no rows in its train split"),
        (np.zeros((3, 2)), "the ndarray"),
        (Breaks(), r"data can't be read as rows \(AttributeError: no such thing here\)"),
        ("", "'' names no data"),
        ("   ", "names no data"),
        ("x" * 5000, "can't be read: File name too long"),
        ("text,label\na,b\n", "does not exist"),
        ("a\0b", "does not exist"),
        (Path("nowhere/at/all.csv"), "does not exist"),
    ],
)
def test_what_cannot_be_used_is_said_on_one_line(data, message):
    with pytest.raises(InputError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_later_row_that_is_no_dict_is_named():
    records = read([*ROWS, "three"])
    with pytest.raises(DataError, match=r"data\[2\] is the str 'three'"):
        list(records)


def test_rows_go_to_another_process_unchanged(tmp_path):
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    given = as_data({"train": [{"image": image, "label": "\ud83d"}], "valid": ROWS})
    given.save(tmp_path / "rows")
    loaded = InMemory.load(tmp_path / "rows")
    (record,) = loaded.read("train")
    assert record.fields["image"].tobytes() == image.tobytes()
    assert (record.fields["label"], record.replaced) == ("\ufffd", 1)
    assert fields(loaded.read("valid")) == ROWS
    assert loaded.read("test") is None
    with pytest.raises(DataError, match=r"can't be handed to a rehearsal of the run \("):
        as_data([{"text": lambda: 0}]).save(tmp_path / "none")
