"""Safetensors files read in place: views of a memory map instead of copies.

The format is an 8-byte little-endian header length, a JSON header (name -> dtype, shape, data_offsets) and
the data. The ``safetensors`` package writes such files well but only reads by copying; mutable weights need
the mapping itself (copy on write), and ONNX external data needs the offsets.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import BundleError

_LEAST_BYTES = 10  # the length and an empty header
_HEADER_LIMIT_BYTES = 100_000_000  # the format's own cap

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?", "F8_E4M3": "<u1", "F8_E5M2": "<u1",
}  # fmt: skip


class Entry(NamedTuple):
    """Where one tensor lies; ``offset`` counts bytes from the start of the file."""

    dtype: str  # safetensors' name: "F32"
    shape: tuple[int, ...]
    offset: int
    size: int  # in bytes


class _RawEntry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_entries(path: Path) -> dict[str, Entry]:
    """Return the tensors of a safetensors file, in the order of their data.

    Raises:
        BundleError: the header is damaged, or a tensor lies outside the file or over another.
    """
    size = path.stat().st_size
    if size < _LEAST_BYTES:
        raise BundleError(f"{path} is not a safetensors file (it has {size} bytes): copy or export it again")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _HEADER_LIMIT_BYTES):
            raise BundleError(
                f"{path} is not a safetensors file (its header length is {length}): copy or export it again"
            )
        header = file.read(length)
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        entries = {
            name: _entry(msgspec.json.decode(value, type=_RawEntry), 8 + length)
            for name, value in raw.items()
        }
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise BundleError(f"{path} has a damaged header ({error}): copy or export it again") from error
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)))
    end = 8 + length
    for name, entry in ordered.items():
        if entry.offset < end or entry.offset + entry.size > size:
            raise BundleError(
                f"{path}: tensor {name} lies outside the file or over another: copy or export it again"
            )
        end = entry.offset + entry.size
    return ordered


def _entry(raw: _RawEntry, data_start: int) -> Entry:
    start, end = raw.data_offsets
    expected = math.prod(raw.shape) * np.dtype(_DTYPES[raw.dtype]).itemsize
    if end - start != expected or min(raw.shape, default=0) < 0:
        raise ValueError(f"{end - start} bytes for shape {list(raw.shape)} of {raw.dtype}")
    return Entry(raw.dtype, raw.shape, data_start + start, end - start)


def map_tensors(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return every tensor as a writable view of a private (copy-on-write) mapping: the file never changes.

    Loading costs no copy and untouched pages stay clean, so the system can drop and re-read them. BF16 and
    FP8 tensors come as their raw unsigned integers, as NumPy lacks those types.
    """
    entries = read_entries(path)
    mapping = np.memmap(path, dtype=np.uint8, mode="c")
    return {name: view(mapping, entry) for name, entry in entries.items()}


def map_some(path: Path, names: Collection[str]) -> dict[str, NDArray[np.generic]]:
    """Return some tensors, each a mapping of its own as ``map_tensors`` makes one of the file.

    A private writable mapping counts in full against RLIMIT_DATA and strict overcommit, so what is not to be
    written is better left out of it.
    """
    found: dict[str, NDArray[np.generic]] = {}
    for name, entry in read_entries(path).items():
        if name in names:
            start = entry.offset - entry.offset % mmap.ALLOCATIONGRANULARITY
            size = max(1, entry.offset - start + entry.size)
            mapping = np.memmap(path, dtype=np.uint8, mode="c", offset=start, shape=(size,))
            found[name] = view(mapping, entry._replace(offset=entry.offset - start))
    return found


def view(mapping: NDArray[np.uint8], entry: Entry) -> NDArray[np.generic]:
    """Return one tensor of a mapped file."""
    dtype = np.dtype(_DTYPES[entry.dtype])
    count = entry.size // dtype.itemsize
    return np.frombuffer(mapping.data, dtype=dtype, count=count, offset=entry.offset).reshape(entry.shape)
