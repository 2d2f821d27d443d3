"""Additions as arrays, which is how they reach the compiled kernel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .reference import STRETCH, Addition, Float32, Sample

# elements that all terms are added to in turn: 16 KiB, half of a first-level cache, and the four stretches that
# one block of a sample's stream draws for
CHUNK = 4 * STRETCH
ALL = -1  # stands for the sample of all stretches


class Work(NamedTuple):
    """What the kernel reads. The last row of ``additions`` is the end of the chunks and of the terms."""

    additions: NDArray[
        np.int64
    ]  # [additions + 1, 7]: first chunk, address, elements, first term, sample, address of mask, of source
    shrinks: NDArray[np.float32]
    streams: NDArray[np.uint64]  # [terms, 5]
    spans: NDArray[np.int64]  # [terms, 3]: where a term's table is in ``levels``, and its sample
    levels: NDArray[np.float32]  # every table once, one after the other
    samples: NDArray[np.uint64]  # [samples, 6]: stream, bound

    @classmethod
    def of(cls, additions: Sequence[Addition[Float32]]) -> Work:
        """Return additions as arrays.

        Raises:
            ValueError: a table that is not of 2 levels, or of 256 in pairs.
        """
        rows: list[tuple[int, ...]] = []
        spans: list[tuple[int, int, int]] = []
        samples: list[Sample] = []
        tables: dict[int, tuple[Float32, int, int]] = {}
        chunk = end = 0
        for target, terms, _, sample, mask, source in additions:
            own = ALL if sample is None else _index(sample, samples)
            addresses = (0 if array is None else array.ctypes.data for array in (mask, source))
            rows.append((chunk, target.ctypes.data, target.size, len(spans), own, *addresses))
            chunk += -(-target.size // CHUNK)
            for term in terms:
                key = id(term.table)
                if key not in tables:
                    _check(term.table)
                    tables[key] = (term.table, end, end + term.table.size)
                    end += term.table.size
                _, low, high = tables[key]
                spans.append((low, high, ALL if term.sample is None else _index(term.sample, samples)))
        rows.append((chunk, 0, 0, len(spans), ALL, 0, 0))
        streams = [term.stream for addition in additions for term in addition.terms]
        return cls(
            np.array(rows, np.int64),
            np.array([a.shrink for a in additions], np.float32),
            np.fromiter(chain.from_iterable(streams), np.uint64, 5 * len(streams)).reshape(-1, 5),
            np.fromiter(chain.from_iterable(spans), np.int64, 3 * len(spans)).reshape(-1, 3),
            np.concatenate([np.zeros(0, np.float32), *(t for t, _, _ in tables.values())], dtype=np.float32),
            np.array([(*s.stream, s.bound) for s in samples], np.uint64).reshape(-1, 6),
        )


def _check(table: Float32) -> None:
    """Refuse a table that the kernel's lookups would leave, or whose pairs they would get wrong.

    Of 256 levels the kernel reads the first half: the others are the same with their signs turned.
    """
    if table.shape not in ((2,), (256,)):
        raise ValueError(f"a table holds 2 or 256 levels, not {table.shape}")
    if table.size == 256 and table[:128].tobytes() != (-table[:127:-1]).tobytes():
        raise ValueError("of 256 levels, level 255 - k must be level k with its sign turned")


def _index(sample: Sample, samples: list[Sample]) -> int:
    """Return where a sample is in the list, after adding it where the last one is another."""
    if not samples or samples[-1] != sample:
        samples.append(sample)
    return len(samples) - 1
