"""Rows held out for validation where the data has no split for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import DataError

from ..noise.permutation import permutation

Rows = NDArray[np.int64]


def held_out_rows(size: int, fraction: float) -> int:
    """Return how many of ``size`` rows are held out: the nearest number, at least one unless ``fraction`` is 0."""
    return max(1, round(size * fraction)) if fraction > 0 else 0


def hold_out(size: int, fraction: float, seed: int, classes: Rows | None = None) -> tuple[Rows, Rows]:
    """Deal rows into kept and held out, as a pure function of the arguments.

    Args:
        size: number of rows.
        fraction: share held out, 0 to 1; rounded to the nearest row, at least one unless it is 0.
        seed: run seed.
        classes: [size], the class of each row: held-out rows are then drawn class by class, each class by its
            share. Classes of two rows or more have one on either side as far as the number of rows allows.

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
    if classes is not None:
        order = _by_class(order, classes, count)
    return np.sort(order[count:]), np.sort(order[:count])


def _by_class(order: Rows, classes: Rows, count: int) -> Rows:
    """Return an order whose first ``count`` rows represent the classes; rows keep their order otherwise."""
    found, members = np.unique(classes[order], return_inverse=True)
    sizes = np.bincount(members, minlength=len(found))
    quota = _quotas(sizes, count)
    rank = np.empty(len(order), np.int64)  # of each row among those of its class, as ordered
    for index in range(len(found)):
        rank[members == index] = np.arange(sizes[index])
    chosen = rank < quota[members]
    return np.concatenate([order[chosen], order[~chosen]])


def _quotas(sizes: Rows, count: int) -> Rows:
    """Return how many rows of each class are held out, ``count`` or fewer in all.

    First one of each class that has two rows or more, larger classes first where that is too many; the rest
    goes one by one to the class that lacks most to its share, and leaves a row of each for training.
    """
    share = sizes * (count / sizes.sum())
    quota = np.zeros(len(sizes), np.int64)
    for index in np.argsort(-sizes, kind="stable")[:count]:
        quota[index] = sizes[index] > 1
    while quota.sum() < count and (room := quota < sizes - 1).any():
        quota[np.argmax(np.where(room, share - quota, -np.inf))] += 1
    return quota
