"""Class indices whose names the data tells."""

import json
import pickle
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from zoedge.runtime.data import read
from zoedge.runtime.data.coded import Coded

ROWS = [{"text": "a film", "label": 1}, {"text": "dull", "label": 0}, {"text": "?", "label": -1}]


class Rows(list):
    """What a ``datasets.Dataset`` shows of its features, and its rows."""

    features = MappingProxyType(
        {"text": SimpleNamespace(dtype="string"), "label": SimpleNamespace(names=["bad", "good"])}
    )


def table():
    features = {"text": {"_type": "Value"}, "label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.Table.from_pylist(ROWS).replace_schema_metadata(metadata)


def saved(path):
    pyarrow.parquet.write_table(table(), path)
    return path


FORMS = {
    "dataset": lambda folder: Rows(ROWS),
    "table": lambda folder: table(),
    "parquet": lambda folder: saved(folder / "rows.parquet"),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_know_their_classes_names(tmp_path, form):
    labels = [record.fields["label"] for record in read(FORMS[form](tmp_path))]
    assert labels == [1, 0, -1]
    assert [label.name for label in labels] == ["good", "bad", None]


def test_other_metadata_and_values_are_left_alone(tmp_path):
    plain = pyarrow.Table.from_pylist(ROWS).replace_schema_metadata({"huggingface": "no JSON"})
    assert type(read(plain)[0].fields["label"]) is int
    assert Coded.of("good", ("bad", "good")) == "good"
    assert Coded.of(True, ("bad", "good")) is True
    assert Coded.of(np.int64(1), ("bad", "good")).name == "good"


def test_names_reach_a_process_of_the_programs_own():
    assert pickle.loads(pickle.dumps(Coded.of(1, ("bad", "good")))).name == "good"
