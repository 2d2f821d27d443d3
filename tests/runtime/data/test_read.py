from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from zoedge.errors import DataError, MissingPackageError
from zoedge.runtime.data import KeyNames, read


def rows(records):
    return [dict(record.fields) for record in records]


def test_folder_takes_the_file_of_the_split(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "dev.csv").write_text("text\nc\n")
    np.savez(tmp_path / "test.npz", images=np.zeros((3, 2, 2)))
    assert rows(read(tmp_path)) == [{"text": "a"}, {"text": "b"}]
    assert rows(read(tmp_path, "valid")) == [{"text": "c"}]
    assert len(read(tmp_path, "test")) == 3


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev"])
def test_names_of_the_validation_split(tmp_path, name):
    (tmp_path / f"{name}.tsv").write_text("text\tlabel\na\t1\n")
    assert rows(read(tmp_path, "valid")) == [{"text": "a", "label": "1"}]


def test_one_file_is_train_and_test_and_leaves_validation_to_the_caller(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n')
    assert rows(read(path)) == rows(read(path, "test")) == [{"text": "a"}]
    assert read(path, "valid") is None
    np.savez(tmp_path / "data.npz", x=np.zeros(2))
    assert read(tmp_path / "data.npz", "valid") is None
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.csv").write_text("text\na\n")
    assert read(tmp_path / "folder", "valid") is None


def test_suffix_in_capitals(tmp_path):
    (tmp_path / "DATA.CSV").write_text("text\na\n")
    assert rows(read(tmp_path / "DATA.CSV")) == [{"text": "a"}]


def test_split_that_is_not_there(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match=r"has no test split: name a file test\.jsonl.*holds train\.jsonl"):
        read(tmp_path, "test")
    np.savez(tmp_path / "x.npz", test_images=np.zeros(2))
    with pytest.raises(
        DataError, match=r"has no train split: name its arrays train_\.\.\. \(it tells test apart\)"
    ):
        read(tmp_path / "x.npz")


def test_two_files_for_one_split(tmp_path):
    for name in ("valid.csv", "dev.csv"):
        (tmp_path / name).write_text("text\na\n")
    with pytest.raises(DataError, match=r"has valid\.csv and dev\.csv, which could each be the valid split"):
        read(tmp_path, "valid")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_data(tmp_path, text):
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"data\.jsonl has no rows"):
        read(tmp_path / "data.jsonl")


def test_header_without_rows(tmp_path):
    (tmp_path / "data.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="has no rows"):
        read(tmp_path / "data.csv")


def test_unknown_format(tmp_path):
    (tmp_path / "data.xlsx").write_text("")
    with pytest.raises(DataError, match=r"unknown format '\.xlsx': use \.jsonl"):
        read(tmp_path / "data.xlsx")


def test_missing_file_names_a_near_one(tmp_path):
    (tmp_path / "reviews.csv").write_text("")
    with pytest.raises(DataError, match=r"does not exist; did you mean reviews\.csv\?"):
        read(tmp_path / "review.csv")
    with pytest.raises(DataError, match="does not exist"):
        read("/nowhere/at all")


# -- key names ----------------------------------------------------------------------------------------------


def test_keys_rename_fields(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"review": "a", "stars": 3, "label": 9}\n')
    (record,) = read(tmp_path / "data.jsonl", keys=KeyNames(text="review", label="stars"))
    assert record.fields == {"text": "a", "label": 3}


def test_label_of_several_columns(tmp_path):
    (tmp_path / "data.csv").write_text("a,h,w\n1,2,3\n")
    (record,) = read(tmp_path / "data.csv", keys=KeyNames(label="h, w"))
    assert record.fields == {"a": "1", "label": ["2", "3"]}


def test_chat_key_is_messages(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"dialogue": []}\n')
    (record,) = read(tmp_path / "data.jsonl", keys=KeyNames(chat="dialogue"))
    assert record.fields == {"messages": []}


def test_key_that_the_data_lacks(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"review": "a"}\n')
    with pytest.raises(
        DataError,
        match=r"data\.jsonl:1 has no field 'reviews', which --text-key names; did you mean review\?",
    ):
        list(read(tmp_path / "data.jsonl", keys=KeyNames(text="reviews")))
    keys = KeyNames(text="review", label="stars")
    with pytest.raises(DataError, match=r"'stars', which --label-key names; its fields are review"):
        list(read(tmp_path / "data.jsonl", keys=keys))
    (record,) = read(tmp_path / "data.jsonl", keys=keys, labelled=False)
    assert record.fields == {"text": "a"}


# -- the hub ------------------------------------------------------------------------------------------------


def fake_datasets(monkeypatch, load):
    module = ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub(monkeypatch):
    asked = []

    def load(name, config):
        asked.append((name, config))
        return {"train": [{"text": "a"}, {"text": "b"}], "validation": [{"text": "c"}]}

    fake_datasets(monkeypatch, load)
    records = read("nyu-mll/glue:sst2")
    assert rows(records) == [{"text": "a"}, {"text": "b"}]
    assert records[1].where == "nyu-mll/glue:sst2/train[1]"
    assert rows(read("imdb", "valid")) == [{"text": "c"}]
    assert asked == [("nyu-mll/glue", "sst2"), ("imdb", None)]
    with pytest.raises(DataError, match="imdb has no test split"):
        read("imdb", "test")


def test_hub_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackageError, match=r"no file or folder here.*pip install 'datasets>="):
        read("owner/name")


def test_hub_with_a_package_that_fits_no_other(monkeypatch, tmp_path):
    (tmp_path / "datasets.py").write_text("import os\nos.no_such_name\n")
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        DataError, match=r"^owner/name is no file .* can't be used \(AttributeError: .*update datasets$"
    ):
        read("owner/name")


def test_hub_unreachable(monkeypatch):
    def load(name, config):
        raise ConnectionError("no route\nto host")

    fake_datasets(monkeypatch, load)
    with pytest.raises(DataError) as caught:
        read("owner/name")
    assert "ConnectionError: no route)" in str(caught.value)
    assert "\n" not in str(caught.value)
