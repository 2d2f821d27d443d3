"""What is put comes back whole or not at all, within the bound, and leaves nothing behind."""

import gc
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoedge.runtime.machine.memory import memory_held
from zoedge.runtime.passes import row_store
from zoedge.runtime.passes.row_store import RowStore

from ..open_files import open_files

MIB = 1 << 20


payloads = st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.binary(max_size=200)), max_size=30)


@given(entries=payloads, most=st.integers(0, 600))
@settings(max_examples=100, deadline=None)
def test_what_is_put_comes_back_within_the_bound(tmp_path_factory, entries, most):
    store = RowStore(tmp_path_factory.getbasetemp(), most)
    kept = {}
    for key, payload in entries:
        refused = store.full
        store.put(key, payload)
        if not refused and key not in kept and sum(map(len, kept.values())) + len(payload) <= most:
            kept[key] = payload
        assert store.used_bytes == sum(map(len, kept.values())) <= most
        assert os.fstat(store._handle).st_size <= most
    assert len(store) == len(kept)
    for key, _ in entries:
        assert (key in store) == (key in kept)
    assert {key: store.get(key) for key in kept} == kept
    store.close()


def test_the_first_entry_that_does_not_fit_is_the_end(tmp_path):
    store = RowStore(tmp_path, 10)
    store.put(b"a", b"123456")
    assert not store.full
    store.put(b"b", b"12345")
    assert store.full
    store.put(b"c", b"1")
    assert b"c" not in store


def test_an_entry_is_never_replaced(tmp_path):
    store = RowStore(tmp_path, 100)
    store.put(b"a", b"first")
    store.put(b"a", b"other")
    assert store.get(b"a") == b"first"
    assert store.used_bytes == 5


def test_the_number_of_entries_is_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr(row_store, "MOST_ENTRIES", 3)
    store = RowStore(tmp_path, 100)
    for key in (b"a", b"b", b"c", b"d"):
        store.put(key, b"")
    assert len(store) == 3
    assert store.full


@pytest.mark.parametrize("written", [0, 4])
def test_what_a_full_disk_cut_off_is_no_entry(tmp_path, monkeypatch, written):
    """Some bytes may have been written; the next entry overwrites them."""
    store = RowStore(tmp_path, 100)
    store.put(b"a", b"whole")
    write = os.pwrite

    def fail(handle, data, start):
        if start > 5:
            raise OSError(28, "No space left on device")
        return write(handle, data[:written], start)

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", fail if written else lambda *_: fail(0, b"", 6))
        with pytest.raises(OSError, match="No space left"):
            store.put(b"b", b"123456789")
    assert b"b" not in store
    assert store.used_bytes == 5
    store.put(b"c", b"later")
    assert (store.get(b"a"), store.get(b"c")) == (b"whole", b"later")


def test_short_writes_and_reads_are_continued(tmp_path, monkeypatch):
    store = RowStore(tmp_path, 100)
    write, read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda handle, data, start: write(handle, data[:3], start))
    monkeypatch.setattr(os, "pread", lambda handle, size, start: read(handle, min(size, 2), start))
    store.put(b"a", b"0123456789")
    store.put(b"b", b"abcdefghij")
    assert (store.get(b"a"), store.get(b"b")) == (b"0123456789", b"abcdefghij")


@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_other_bytes_than_were_written_are_an_error(tmp_path, damage):
    store = RowStore(tmp_path, 100)
    store.put(b"a", b"0123456789")
    if damage == "changed":
        os.pwrite(store._handle, b"\0", 4)
    else:
        os.ftruncate(store._handle, 5)
    with pytest.raises(OSError, match="not what was written"):
        store.get(b"a")


def test_the_file_has_no_name_and_goes_with_the_store(tmp_path):
    store = RowStore(tmp_path, 100)
    store.put(b"a", b"1")
    assert list(tmp_path.iterdir()) == []
    assert len(open_files(tmp_path)) == 1
    del store
    gc.collect()
    assert open_files(tmp_path) == []


def test_entries_are_no_memory_of_this_process(tmp_path):
    store = RowStore(tmp_path, 64 * MIB)
    store.put(b"first", bytes(MIB))
    before = memory_held().anonymous
    for number in range(63):
        store.put(bytes([number]), bytes([number]) * MIB)
    for number in range(63):
        assert store.get(bytes([number]))[-1] == number
    assert store.used_bytes == 64 * MIB
    assert memory_held().anonymous < before + 8 * MIB


def test_a_closed_store_is_empty_and_takes_nothing(tmp_path):
    store = RowStore(tmp_path, 100)
    store.put(b"a", b"1")
    store.close()
    store.close()
    assert open_files(tmp_path) == []
    store.put(b"b", b"1")
    assert b"a" not in store
    assert b"b" not in store


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        RowStore(tmp_path / "absent", 100)
