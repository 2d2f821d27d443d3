"""Writes safetensors files that map well: aligned tensors, in a fixed order, one at a time.

The format forbids holes, so padding between tensors is impossible. Instead the header is padded with spaces
until the data starts on a page, and tensors are sorted by the power of two that divides their size, largest
first: each then starts at a multiple of its own power of two (up to a page).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_PAGE_BYTES = 4096
_CHUNK_BYTES = 1 << 24
_METADATA = {"format": "pt"}  # transformers refuses files without it
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class Placed(NamedTuple):
    """Where a tensor lies, in bytes from the start of the file."""

    offset: int
    size: int


class Written(NamedTuple):
    """A finished file."""

    places: dict[str, Placed]
    sha256: str


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], dtypes: Mapping[str, str] | None = None
) -> Written:
    """Write a safetensors file; the same tensors in the same order give the same bytes.

    Memory maps are copied through in chunks, so a file may be larger than memory.

    Args:
        path: the file to create.
        tensors: C-contiguous little-endian arrays.
        dtypes: name -> safetensors' dtype where NumPy has none ("BF16" held as uint16).
    """
    names = sorted(tensors, key=lambda name: -_divisor(tensors[name].nbytes))  # stable
    header, starts = _header(names, tensors, dtypes or {})
    digest = hashlib.sha256(header)
    with path.open("wb") as file:
        file.write(header)
        for name in names:
            flat = tensors[name].reshape(-1).view(np.uint8)
            for start in range(0, len(flat), _CHUNK_BYTES):
                chunk = flat[start : start + _CHUNK_BYTES].data
                digest.update(chunk)
                file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    places = {name: Placed(len(header) + starts[name], tensors[name].nbytes) for name in names}
    return Written(places, digest.hexdigest())


def _header(
    names: list[str], tensors: Mapping[str, np.ndarray[Any, Any]], dtypes: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    entries: dict[str, Any] = {"__metadata__": _METADATA}
    starts: dict[str, int] = {}
    end = 0
    for name in names:
        array = tensors[name]
        starts[name], end = end, end + array.nbytes
        entries[name] = {
            "dtype": dtypes.get(name) or _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _PAGE_BYTES)
    return len(text).to_bytes(8, "little") + text, starts


def _divisor(size: int) -> int:
    """Return the largest power of two up to a page that divides ``size``; a page for 0."""
    return min(size & -size, _PAGE_BYTES) if size else _PAGE_BYTES
