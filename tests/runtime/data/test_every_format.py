"""What every data format must do: each of ``READERS`` has a writer here, and all checks run for it."""

import contextlib
import json

import numpy as np
import pandas as pd
import pytest

from zoedge.errors import DataError
from zoedge.runtime.data import READERS, read

ROWS = [
    {"text": "plain", "label": "a"},
    {"text": 'quotes " and, commas;\ttabs', "label": "b"},
    {"text": "ünïcode ✓ 日本", "label": "a"},
]


def columns(rows):
    return {name: [row[name] for row in rows] for name in ROWS[0]}


WRITERS = {
    ".jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    ".json": lambda path, rows: path.write_text(json.dumps(rows)),
    ".csv": lambda path, rows: pd.DataFrame(columns(rows)).to_csv(path, index=False),
    ".tsv": lambda path, rows: pd.DataFrame(columns(rows)).to_csv(path, index=False, sep="\t"),
    ".npz": lambda path, rows: np.savez(path, **{n: np.array(v, str) for n, v in columns(rows).items()}),
    ".parquet": lambda path, rows: pd.DataFrame(columns(rows)).to_parquet(path),
}
FORMATS = pytest.mark.parametrize("suffix", list(READERS))


def test_each_format_has_a_writer():
    assert WRITERS.keys() == READERS.keys()


@FORMATS
def test_rows_come_back_in_order_with_their_places(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, ROWS)
    records = read(path)
    assert [dict(record.fields) for record in records] == ROWS
    assert len({record.where for record in records}) == 3
    assert all(record.where.startswith(str(path)) for record in records)
    assert [r.fields["label"] for r in records[1:]] == ["b", "a"]
    assert read(path, "valid") is None
    assert [r.fields for r in read(path, "test")] == [r.fields for r in records]


@FORMATS
def test_a_folder_of_splits(tmp_path, suffix):
    for name, rows in (("train", ROWS), ("valid", ROWS[:1])):
        WRITERS[suffix](tmp_path / f"{name}{suffix}", rows)
    assert [len(read(tmp_path, split)) for split in ("train", "valid")] == [3, 1]
    with pytest.raises(DataError, match="has no test split"):
        read(tmp_path, "test")


@FORMATS
@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02\xff\xfe\xfd" * 50], ids=["empty", "noise"])
def test_what_is_no_such_file_is_one_sentence_that_names_it(tmp_path, suffix, content):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        list(read(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@FORMATS
def test_a_cut_file_never_ends_in_another_error(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, ROWS)
    whole = path.read_bytes()
    for size in range(1, len(whole), max(1, len(whole) // 23)):
        path.write_bytes(whole[:size])
        with contextlib.suppress(DataError):
            list(read(path))
