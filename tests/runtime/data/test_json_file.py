from __future__ import annotations

import json

import pytest

from zoedge.errors import DataError
from zoedge.runtime.data import read

ROWS = [{"text": "a film", "label": 1}, {"text": "dull", "label": 0}]


def fields(records):
    return [dict(record.fields) for record in records]


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.0", "rows": ROWS, "tags": []},
        {"text": ["a film", "dull"], "label": [1, 0]},
        {"text": {"0": "a film", "1": "dull"}, "label": {"0": 1, "1": 0}},  # DataFrame.to_json()
        {
            "columns": ["text", "label"],
            "index": [0, 1],
            "data": [["a film", 1], ["dull", 0]],
        },  # orient="split"
        {"train": ROWS},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_shapes(tmp_path, content, indent):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content, indent=indent))
    assert fields(read(path)) == ROWS


def test_lines_of_json_in_a_json_file(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert fields(read(path)) == ROWS
    assert [r.where for r in read(path)] == [f"{path}:1", f"{path}:2"]


def test_splits(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": ROWS, "validation": ROWS[:1]}))
    assert fields(read(path, "valid")) == ROWS[:1]
    with pytest.raises(DataError, match=r"no test split.*it tells train, valid apart"):
        read(path, "test")
    (tmp_path / "folder").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "folder" / f"{name}.json").write_text(json.dumps(ROWS[:1]))
    assert fields(read(tmp_path / "folder", "valid")) == ROWS[:1]
    path.write_text(json.dumps(ROWS))
    assert read(path, "valid") is None


def test_broken_surrogates_and_places(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "great \\ud83d"}]')
    (record,) = read(path)
    assert (record.fields["text"], record.replaced, record.where) == ("great \ufffd", 1, f"{path}[0]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"a" 2}]', r"rows\.json:2 is not JSON \(Expecting ':' delimiter at column 7\)"),
        ("", r"rows\.json:1 is not JSON"),
        ("3", r"rows\.json holds no rows: write a list of objects"),
        ("{}", "holds no rows"),
        ('{"text": "a", "label": "b"}', "holds no rows"),
        ("[1, 2]", r"rows\.json\[0\] is the int 1: give a dict for each row"),
        ("[" * 100_000, "can't be read"),
    ],
)
def test_malformed(tmp_path, text, message):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
