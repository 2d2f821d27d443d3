"""Rows held out for validation where the data has no split for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import DataError

from ..noise.permutation import permutation


def held_out_rows(size: int, fraction: float) -> int:
    """Return how many of ``size`` rows are held out: the nearest number, at least one unless ``fraction`` is 0."""
    return max(1, round(size * fraction)) if fraction > 0 else 0


def hold_out(size: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal rows into kept and held out, as a pure function of the arguments.

    Args:
        size: number of rows.
        fraction: share held out, 0 to 1; rounded to the nearest row, at least one unless it is 0.
        seed: run seed.

    Returns:
        (kept, held out): int64 row numbers, each in ascending order.

    Raises:
        DataError: no row would be left to train on.
    """
    count = held_out_rows(size, fraction)
    if count >= size:
        raise DataError(
            f"holding {count} of {size} rows out for validation leaves none to train on: "
            f"give more rows, a valid split or a smaller --val-size"
        )
    order = permutation(seed, "zoedge.hold_out", 0, size)
    return np.sort(order[count:]), np.sort(order[:count])
