"""The journal: bytes, sizes, and what a crash leaves behind."""

import math
import os
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoedge.errors import BundleError
from zoedge.runtime.records import Assign, Eval, Header, Step
from zoedge.runtime.run import journal
from zoedge.runtime.run.journal import Journal

HEADER = Header(bundle="b" * 64, data="d", seed=0, noise=1, options={"lr": 1e-3}, zoedge="0.1.0")
F32 = st.floats(width=32, allow_nan=False)
STEPS = st.builds(Step, st.integers(0, 2**32 - 1), F32, st.lists(st.floats(), max_size=20).map(tuple))
EVALS = st.builds(Eval, st.integers(0, 2**32 - 1), st.dictionaries(st.text(), st.floats(allow_nan=False)))


def write(path, records):
    file = Journal.create(path, HEADER)
    for record in records:
        file.append(record)
    file.close()


def same(a, b):
    return journal.encode_record(a) == journal.encode_record(b)


@given(record=st.one_of(STEPS, EVALS))
def test_a_record_survives_its_bytes(record):
    assert same(journal.decode(journal.encode_record(record)), record)


def test_an_assignment_survives_its_bytes():
    slots = {0: {"b": np.arange(3, dtype=np.float32)}, 255: {"a": np.ones((2, 2), np.float32)}}
    decoded = journal.decode(journal.encode_record(Assign(5, slots)))
    assert decoded.step == 5
    np.testing.assert_array_equal(decoded.slots[0]["b"], [0, 1, 2])
    np.testing.assert_array_equal(decoded.slots[255]["a"], [1, 1, 1, 1])  # values come flat


def test_a_two_point_step_takes_30_bytes(tmp_path):
    write(tmp_path / "0", [])
    write(tmp_path / "1", [Step(20_000, 1e-3, (0.5, 0.25))])
    assert (tmp_path / "1").stat().st_size - (tmp_path / "0").stat().st_size == 30


def test_the_bytes_of_a_step_are_pinned(tmp_path):
    write(tmp_path / "j", [Step(1, 0.5, (2.0, math.inf))])
    payload = b"\x01" + struct.pack("<If", 1, 0.5) + struct.pack("<dd", 2.0, math.inf)
    frame = bytes([len(payload)]) + struct.pack("<I", zlib.crc32(payload)) + payload
    assert (tmp_path / "j").read_bytes().endswith(frame)
    assert (tmp_path / "j").read_bytes().startswith(b"zoedge journal 1\n")


def test_header_and_records_come_back(tmp_path):
    records = [Step(0, 1.0, (1.0, 2.0)), Eval(1, {"loss": 0.5}), Step(1, 0.5, (math.nan,))]
    write(tmp_path / "j", records)
    contents = journal.read_journal(tmp_path / "j")
    assert contents.header == HEADER
    assert all(same(a, b) for a, b in zip(contents.records, records, strict=True))
    assert contents.torn == 0


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_tail_is_cut_at_the_last_good_record(tmp_path, cut):
    path = tmp_path / "j"
    write(path, [Step(0, 1.0, (1.0, 2.0)), Step(1, 1.0, (1.0, 2.0))])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    contents = journal.read_journal(path)
    assert [r.step for r in contents.records] == [0]
    assert contents.size == len(whole) - 30
    assert contents.torn == 30 - cut
    reopened = Journal.reopen(path, contents.size)
    reopened.append(Step(1, 1.0, (1.0, 2.0)))
    reopened.close()
    assert path.read_bytes() == whole


SMALL = [
    Assign(0, {0: {"w": np.ones(3, np.float32)}, 255: {"w": np.zeros(3, np.float32)}}),
    Eval(0, {"loss": 0.5}),
    *(Step(k, 1e-3, (1.0, 2.0)) for k in range(3)),
    Eval(3, {"loss": 0.25, "accuracy": 1.0}),
    Step(3, 1e-3, (1.0, 2.0)),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "j"
    write(path, SMALL)
    return path, path.read_bytes()


@given(where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), cut=st.integers(0, 29))
def test_a_damaged_byte_costs_the_last_record_or_is_an_error(small, where, mask, cut):
    path, whole = small
    damaged = bytearray(whole[: len(whole) - cut])
    damaged[int(where * len(damaged))] ^= mask
    path.write_bytes(damaged)
    _check_damage(path, int(where * len(damaged)), len(whole) - 30, torn=cut > 0)


def test_every_byte_damaged(small):
    path, whole = small
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        _check_damage(path, place, len(whole) - 30, torn=False)


def _check_damage(path, place, last, *, torn):
    """``last`` is where the last record begins; where it is torn as well, nothing good lies behind the one before."""
    try:
        contents = journal.read_journal(path)
    except BundleError:
        assert place < last
        return
    assert len(contents.records) == len(SMALL) - 1 or (torn and len(contents.records) == len(SMALL) - 2)
    assert all(same(a, b) for a, b in zip(contents.records, SMALL, strict=False))
    assert place >= contents.size


def test_the_error_names_the_record_and_the_way_back(tmp_path):
    path = tmp_path / "j"
    write(path, [Step(k, 1.0, (1.0, 2.0)) for k in range(3)])
    data = bytearray(path.read_bytes())
    data[-35] ^= 1  # inside the second record
    path.write_bytes(data)
    start = len(data) - 60
    with pytest.raises(BundleError) as caught:
        journal.read_journal(path)
    assert str(caught.value) == (
        f"{path} is damaged in record 2 at byte {start}, with good records behind it: restore the file, or keep "
        f"what lies before the damage with truncate -s {start} {path}"
    )
    os.truncate(path, start)
    assert [r.step for r in journal.read_journal(path).records] == [0]


def test_a_record_of_another_kind_is_no_torn_tail(tmp_path):
    path = tmp_path / "j"
    write(path, [Step(0, 1.0, (1.0,))])
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\x01" + struct.pack("<I", zlib.crc32(b"\x09")) + b"\x09")
    with pytest.raises(BundleError, match=f"doesn't know, number 2 at byte {size}: upgrade zoedge"):
        journal.read_journal(path)


def test_a_large_torn_record_is_read_quickly(tmp_path):
    path = tmp_path / "j"
    noise = np.random.default_rng(0).standard_normal(2_000_000).astype(np.float32)
    write(path, [Step(0, 1.0, (1.0,)), Assign(1, {0: {"w": noise}})])
    os.truncate(path, path.stat().st_size - 1)
    started = time.process_time()
    assert [r.step for r in journal.read_journal(path).records] == [0]
    assert time.process_time() - started < 20


def test_not_a_journal(tmp_path):
    (tmp_path / "j").write_bytes(b"something else")
    with pytest.raises(BundleError, match="is not a journal that this zoedge reads"):
        journal.read_journal(tmp_path / "j")
    with pytest.raises(BundleError, match="is missing"):
        journal.read_journal(tmp_path / "absent")
    (tmp_path / "k").write_bytes(journal.MAGIC + b"\x05abc")
    with pytest.raises(BundleError, match="damaged header"):
        journal.read_journal(tmp_path / "k")


def test_create_never_overwrites(tmp_path):
    write(tmp_path / "j", [])
    with pytest.raises(FileExistsError):
        Journal.create(tmp_path / "j", HEADER)
