import hashlib
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from zoedge.export.tensor_writer import write_tensors
from zoedge.tensor_file import map_tensors

TENSORS = {
    "odd": np.arange(3, dtype=np.float32),
    "big": np.arange(4096, dtype=np.float32).reshape(64, 64),
    "ids": np.arange(5, dtype=np.int64),
    "flag": np.array([True, False]),
    "one": np.array(2.5, dtype=np.float64),
    "none": np.zeros((0, 4), np.float32),
    "half": np.arange(64, dtype=np.float16),
    "even": np.arange(32, dtype=np.float32),
}


def test_the_safetensors_library_reads_the_file(tmp_path):
    write_tensors(tmp_path / "w", TENSORS)
    loaded = load_file(tmp_path / "w")
    assert loaded.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    with safe_open(tmp_path / "w", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_every_tensor_is_aligned_to_the_power_of_two_in_its_size(tmp_path):
    written = write_tensors(tmp_path / "w", TENSORS)
    for name, place in written.places.items():
        assert place.size == TENSORS[name].nbytes
        assert place.offset % min(place.size & -place.size or 1, 4096) == 0, name
    header = 8 + int.from_bytes((tmp_path / "w").read_bytes()[:8], "little")
    assert header % 4096 == 0
    assert min(place.offset for place in written.places.values()) == header


def test_offsets_and_digest_are_those_of_the_file(tmp_path):
    written = write_tensors(tmp_path / "w", TENSORS)
    raw = (tmp_path / "w").read_bytes()
    assert written.sha256 == hashlib.sha256(raw).hexdigest()
    for name, place in written.places.items():
        assert raw[place.offset : place.offset + place.size] == TENSORS[name].tobytes()


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    write_tensors(tmp_path / "a", TENSORS)
    write_tensors(tmp_path / "b", {name: array.copy() for name, array in TENSORS.items()})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_dtype_that_numpy_lacks_keeps_its_name(tmp_path):
    bits = np.arange(6, dtype=np.uint16).reshape(2, 3)
    write_tensors(tmp_path / "w", {"w": bits}, {"w": "BF16"})
    header = (tmp_path / "w").read_bytes()[8:4096]
    assert json.loads(header)["w"] == {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_unaligned_views_and_maps_are_written_as_they_are(tmp_path, shift):
    raw = tmp_path / "raw"
    raw.write_bytes(b"x" * shift + np.arange(100, dtype=np.float32).tobytes())
    view = np.frombuffer(np.memmap(raw, np.uint8, "r").data, "<f4", 100, shift)
    write_tensors(tmp_path / "w", {"v": view})
    np.testing.assert_array_equal(map_tensors(tmp_path / "w")["v"], np.arange(100, dtype=np.float32))
