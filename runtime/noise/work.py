"""Additions and sweeps as arrays, which is how they reach compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .reference import PURPOSE_DIRECTION, STRETCH, Addition, Float32, Sample, table
from .sweep import Family, Sweep

# elements that all terms are added to in turn: 16 KiB, half of a first-level cache, and the four stretches that
# one block of a sample's stream draws for
CHUNK = 4 * STRETCH
ALL = -1  # stands for the sample of all stretches


def host_address(array: Any) -> int:
    """Return where an array of NumPy's lies."""
    return int(array.ctypes.data)


Address = Callable[[Any], int]


class Work(NamedTuple):
    """What a kernel reads. The last row of ``additions`` is the end of the chunks and of the terms.

    A row of ``additions`` is: first chunk, address, elements, first term, sample, address of the mask, address of
    the source, whether the target is float16.
    """

    additions: NDArray[np.int64]  # [additions + 1, 8]
    shrinks: NDArray[np.float32]
    streams: NDArray[np.uint64]  # [terms, 5]
    spans: NDArray[np.int64]  # [terms, 3]: where a term's table is in ``levels``, and its sample
    levels: NDArray[np.float32]  # every table once, one after the other
    samples: NDArray[np.uint64]  # [samples, 6]: stream, bound

    @classmethod
    def of(cls, additions: Sequence[Addition[Any]], address: Address = host_address) -> Work:
        """Return additions as arrays.

        Args:
            additions: to buffers with a size and a dtype.
            address: tells where a buffer lies.

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
            beside = (0 if array is None else address(array) for array in (mask, source))
            half = target.dtype == np.float16
            rows.append((chunk, address(target), target.size, len(spans), own, *beside, half))
            chunk += -(-target.size // CHUNK)
            for term in terms:
                key = id(term.table)
                if key not in tables:
                    _check(term.table)
                    tables[key] = (term.table, end, end + term.table.size)
                    end += term.table.size
                _, low, high = tables[key]
                spans.append((low, high, ALL if term.sample is None else _index(term.sample, samples)))
        rows.append((chunk, 0, 0, len(spans), ALL, 0, 0, 0))
        streams = [term.stream for addition in additions for term in addition.terms]
        return cls(
            np.array(rows, np.int64),
            np.array([a.shrink for a in additions], np.float32),
            np.fromiter(chain.from_iterable(streams), np.uint64, 5 * len(streams)).reshape(-1, 5),
            np.fromiter(chain.from_iterable(spans), np.int64, 3 * len(spans)).reshape(-1, 3),
            np.concatenate([np.zeros(0, np.float32), *(t for t, _, _ in tables.values())], dtype=np.float32),
            np.array([(*s.stream, s.bound) for s in samples], np.uint64).reshape(-1, 6),
        )

    @classmethod
    def of_sweeps(cls, sweeps: Sequence[Sweep[Float32]], rows: FamilyRows) -> Work:
        """Return sweeps as the arrays of their additions."""
        parts: list[tuple[NDArray[Any], ...]] = []
        tables: list[Float32] = []
        chunk = term = end = 0
        for family, seed, terms, distribution, shrink, _ in sweeps:
            own, count = rows[family].copy(), len(family.ids)
            streams = np.empty((count, len(terms), 5), np.uint64)
            streams[:, :, 0], streams[:, :, 4] = seed, PURPOSE_DIRECTION
            streams[:, :, 1] = own[:-1, 3, None].view(np.uint64)
            spans = np.full((len(terms), 3), ALL, np.int64)
            for t, (step, probe, scale) in enumerate(terms):
                streams[:, t, 2], streams[:, t, 3] = step, probe
                tables.append(table(distribution, scale))
                spans[t, :2] = end, end + tables[-1].size
                end += tables[-1].size
            own[:, 0] += chunk
            own[:, 3] = term + len(terms) * np.arange(count + 1)
            chunk, term = int(own[-1, 0]), int(own[-1, 3])
            factors = np.full(count, shrink, np.float32)
            parts.append((own[:-1], factors, streams.reshape(-1, 5), np.tile(spans, (count, 1))))
        additions, shrinks, streams, spans = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        last = np.array([[chunk, 0, 0, term, ALL, 0, 0, 0]])
        levels = np.concatenate([np.zeros(0, np.float32), *tables])
        return cls(np.vstack([additions, last]), shrinks, streams, spans, levels, np.zeros((0, 6), np.uint64))


class FamilyRows:
    """The rows of families in the host's memory, kept as long as a family lives."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Family[Float32], NDArray[np.int64]] = WeakKeyDictionary()

    def __getitem__(self, family: Family[Float32]) -> NDArray[np.int64]:
        """Return ``family_rows``, to be read only."""
        rows = self._kept.get(family)
        if rows is None:
            rows = self._kept[family] = family_rows(family)
        return rows


def family_rows(family: Family[Any], address: Address = host_address) -> NDArray[np.int64]:
    """Return what doesn't change from sweep to sweep, [tensors + 1, 8].

    A row is that of ``Work.additions``, but for the tensor id in the place of the first term.
    """
    rows = np.zeros((len(family.ids) + 1, 8), np.int64)
    rows[:, 4] = ALL
    rows[:-1, 1] = [address(target) for target in family.targets]
    rows[:-1, 2] = [target.size for target in family.targets]
    rows[:-1, 3] = np.array(family.ids, np.uint64).view(np.int64)
    rows[:-1, 6] = [address(source) for source in family.sources or ()] or 0
    rows[:-1, 7] = [target.dtype == np.float16 for target in family.targets]
    rows[1:, 0] = np.cumsum(-(-rows[:-1, 2] // CHUNK))
    return rows


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
