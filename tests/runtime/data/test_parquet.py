from __future__ import annotations

import sys

import pytest

from zoedge.errors import DataError, MissingPackageError
from zoedge.runtime.data import read

ROWS = [{"text": "a film", "label": 1, "x": [0.5, 1.5]}, {"text": "dull", "label": 0, "x": [2.0, -1.0]}]


def test_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "train.parquet")
    records = read(tmp_path)
    assert [dict(r.fields) for r in records] == ROWS
    assert records[1].where == f"{tmp_path / 'train.parquet'}[1]"


def test_the_index_of_pandas_is_no_column(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1.5, 2.5, 3.5], "label": [0, 1, 0]}).iloc[[2, 0, 1]]
    frame.to_parquet(tmp_path / "rows.parquet")
    found = [dict(record.fields) for record in read(tmp_path / "rows.parquet")]
    assert found == [{"a": 3.5, "label": 0}, {"a": 1.5, "label": 0}, {"a": 2.5, "label": 1}]


def test_damaged(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"rows\.parquet can't be read as Parquet \(") as caught:
        read(tmp_path / "rows.parquet")
    assert "\n" not in str(caught.value)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"")
    with pytest.raises(MissingPackageError, match=r"rows\.parquet needs the package pyarrow: pip install"):
        read(tmp_path / "rows.parquet")
