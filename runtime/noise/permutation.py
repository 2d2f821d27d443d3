"""Seeded orders that don't depend on NumPy's Generator streams, which may change between versions."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def name_id(name: str | bytes) -> int:
    """Return the 64-bit BLAKE2b of a name (little-endian)."""
    raw = name.encode() if isinstance(name, str) else name
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def permutation(seed: int, purpose: str | bytes, index: int, size: int) -> NDArray[np.int64]:
    """Return an order of ``size`` rows as a pure function of its arguments.

    It is the stable argsort of the raw uint64 words of Philox4x64-10 (Salmon et al., SC 2011) with
    key = (seed, BLAKE2b-64 of the purpose) and counter = (0, index, 0, 0).

    Args:
        seed: run seed, 0 to 2^64 - 1.
        purpose: what the order is for, so that no two uses share a stream.
        index: epoch, or 0.
        size: number of rows.
    """
    generator = np.random.Philox(
        key=np.array([seed, name_id(purpose)], dtype=np.uint64),
        counter=np.array([0, index, 0, 0], dtype=np.uint64),
    )
    return np.argsort(generator.random_raw(size), kind="stable").astype(np.int64)
