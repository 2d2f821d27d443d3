"""Reading and writing matrices of any float type that safetensors knows; NumPy lacks bfloat16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOATS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}  # safetensors' name -> how NumPy holds it


def item_bytes(dtype: str) -> int:
    """Return the size of one element."""
    return np.dtype(FLOATS[dtype]).itemsize


def read_floats(data: bytes, dtype: str) -> NDArray[np.float64]:
    """Return stored elements as float64 [n], exactly.

    Args:
        data: little-endian elements.
        dtype: a key of ``FLOATS``.
    """
    stored = np.frombuffer(data, FLOATS[dtype])
    if dtype == "BF16":  # the upper half of a float32
        stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float64)


def write_floats(values: NDArray[np.float64], dtype: str) -> bytes:
    """Return the elements in their stored form, each rounded once, to nearest even."""
    if dtype == "BF16":
        return _bfloat16(values).tobytes()
    return values.astype(FLOATS[dtype]).tobytes()


def _bfloat16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Return bfloat16 bits. On the way, float32 is rounded to odd, so that rounding it again is exact."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = values.astype(np.float32)
        wide = near.astype(np.float64)
        toward_zero = np.where(np.abs(wide) > np.abs(values), np.nextafter(near, np.float32(0.0)), near)
    bits = np.ascontiguousarray(toward_zero, np.float32).view(np.uint32)
    nan = np.isnan(values)
    bits = bits | ((wide != values) & ~nan)  # an inexact one gets an odd last bit: it is between two others
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(nan, np.uint16(0x7FC0), rounded.astype(np.uint16)).astype("<u2")
