from __future__ import annotations

import numpy as np
import pytest

from zoedge.errors import DataError
from zoedge.runtime.data import Subset, read
from zoedge.runtime.data.npz import npz_splits, read_npz


def test_rows_are_views_with_plain_scalars(tmp_path):
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    np.savez(tmp_path / "d.npz", images=images, labels=np.array([2, 0, 1]), text=np.array(["a", "b", "c"]))
    records = read_npz(tmp_path / "d.npz", "train")
    assert len(records) == 3
    first, again = records[1], records[1]
    np.testing.assert_array_equal(first.fields["images"], images[1])
    assert np.shares_memory(first.fields["images"], again.fields["images"])
    assert first.fields["labels"] == 0
    assert type(first.fields["labels"]) is int
    assert first.fields["text"] == "b"
    assert first.where == f"{tmp_path / 'd.npz'}[1]"


def test_sequence(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(5))
    records = read_npz(tmp_path / "d.npz", "train")
    values = [r.fields["x"] for r in records]
    assert values == [0, 1, 2, 3, 4]
    assert [r.fields["x"] for r in records[1:4][::-1]] == [3, 2, 1]
    assert records[-1].fields["x"] == 4
    assert [r.fields["x"] for r in Subset(records, np.array([4, 0]))] == [4, 0]
    with pytest.raises(IndexError):
        records[5]


@pytest.mark.parametrize(
    "names", [("train_images", "test_images", "val_images"), ("x_train", "x_test", "x_val")]
)
def test_splits_by_name(tmp_path, names):
    arrays = {name: np.full((size, 2), size) for name, size in zip(names, (4, 3, 2), strict=True)}
    np.savez(tmp_path / "d.npz", **arrays)
    assert npz_splits(tmp_path / "d.npz") == {"train", "test", "valid"}
    for split, size in (("train", 4), ("test", 3), ("valid", 2)):
        records = read(tmp_path / "d.npz", split)
        assert len(records) == size
        (field,) = records[0].fields
        assert field in ("images", "x")
        assert records[0].fields[field].tolist() == [size, size]


def test_other_splits_are_not_loaded(tmp_path):
    unreadable = np.array([None])  # needs pickle
    np.savez(tmp_path / "d.npz", train_x=np.zeros(2), test_x=unreadable)
    assert len(read_npz(tmp_path / "d.npz", "train")) == 2
    assert read_npz(tmp_path / "d.npz", "valid") is None
    with pytest.raises(DataError, match=r"can't be read as \.npz"):
        read_npz(tmp_path / "d.npz", "test")


def test_unequal_rows(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros((3, 2)), labels=np.zeros(4))
    with pytest.raises(DataError, match=r"images \[3, 2\], labels \[4\]: every array needs the same number"):
        read_npz(tmp_path / "d.npz", "train")
    np.savez(tmp_path / "d.npz", images=np.zeros((3, 2)), version=1)
    with pytest.raises(DataError, match=r"version \[\]"):
        read_npz(tmp_path / "d.npz", "train")


def test_damaged(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.arange(1000))
    whole = path.read_bytes()
    bare = tmp_path / "bare.npy"
    np.save(bare, np.zeros(3))
    for raw in (whole[:500], b"", b"text", whole[:300] + b"\x01" * 8 + whole[308:], bare.read_bytes()):
        path.write_bytes(raw)
        with pytest.raises(
            DataError, match=r"can't be read as \.npz \(.+\): write it with numpy\.savez"
        ) as caught:
            read_npz(path, "train")
        assert "\n" not in str(caught.value)
