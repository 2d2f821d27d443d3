"""What the first part of a graph makes of each row, kept on disk across epochs.

That a row read back has the bits that computing it would give rests on two things.

Which kernels run, and the order in which they add, follows from the shapes of a pass and not from values
(``ways/caching.py`` leaves out graphs where it doesn't). So shapes are what is tested: before passes of a shape (how
many rows, and what the inputs of each look like) fill the cache or are served from it, one of them is computed,
and its rows are held bit by bit against what the cache has of them. Its first and its last row, as kernels treat
edges differently, are, unless the cache has them, computed again in a pass that holds nothing but copies of that
row. All shapes that pass give a row the bits of its copies, hence the same ones; passes of other shapes (a single
row, where onnxruntime has a kernel of its own for it) are computed every time, as without a cache.

That a row's results don't depend on its company shows in the same test, which takes a pass whose ends are
different rows: copies are other company for at least one of them. A pass whose activations are rounded with one
scale for all rows fails it.

An entry's key is the digest of a row's inputs at its padded shape. So the same row in another epoch, split or
evaluation is the same entry, padded to another length it is another one, and nobody has to know rows' places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..data.example import Array, Arrays
from .row_store import RowStore

Compute = Callable[[Arrays], Arrays]  # runs a pass: inputs [n, ...] -> results [n, ...]
# name, dtype and shape without the rows of each array
RowShape = tuple[tuple[str, str, tuple[int, ...]], ...]


class PrefixCache:
    """Computes passes, or puts them together from rows that were computed before.

    Args:
        store: where rows are kept.
        copies: rows of the passes that others are held against: 2; 1 where no pass may hold more; or the
            graph's own number of rows.
        fixed: whether that number is the graph's own, so that no pass can have fewer.
    """

    def __init__(self, store: RowStore, *, copies: int = 2, fixed: bool = False) -> None:
        self._store, self._copies, self._fixed = store, copies, fixed
        self._sound: dict[tuple[int, RowShape], bool] = {}  # shapes that were tested
        self._layouts: dict[RowShape, RowShape] = {}  # how a row's inputs look -> how its results do
        self._news: str | None = None

    @property
    def useful(self) -> bool:
        """Whether passes of any shape are kept."""
        return any(self._sound.values())

    @property
    def entry_bytes(self) -> float:
        """Bytes of a row's results, on average; 0 before the first."""
        return self._store.used_bytes / max(1, len(self._store))

    def run(self, compute: Compute, inputs: Arrays) -> Arrays:
        """Return what ``compute`` gives for the inputs, bit for bit."""
        keys = _keys(inputs)
        if self._store.full and not any(key in self._store for key in keys):
            return compute(inputs)
        try:
            return self._run(compute, inputs, keys)
        except OSError as error:  # of the store: a forward pass that fails raises a ZoedgeError
            self._news = (
                f"results of the layers before the first trained one are not kept on disk any more "
                f"({error.strerror or error}): steps take longer, with the same results"
            )
            self.close()
            return compute(inputs)

    def news(self) -> str | None:
        """Return what the user should read, once."""
        news, self._news = self._news, None
        return news

    def close(self) -> None:
        """Give the disk back; from here on every pass is computed."""
        self._store.close()

    def _run(self, compute: Compute, inputs: Arrays, keys: Sequence[bytes]) -> Arrays:
        shape = _row_shape(inputs)
        missing = [row for row, key in enumerate(keys) if key not in self._store]
        sound = self._sound.get((len(keys), shape), False)
        few_sound = self._sound.get((len(missing), shape), not self._fixed)  # to be tried where not known yet
        if not sound or len(missing) == len(keys) or (missing and not few_sound):
            return self._computed(compute, inputs, keys)
        places = {row: place for place, row in enumerate(missing)}
        results: Arrays = {}
        if missing:
            few = {name: np.ascontiguousarray(array[missing]) for name, array in inputs.items()}
            results = self._computed(compute, few, [keys[row] for row in missing])
            if not self._sound.get((len(missing), shape)):
                return self._computed(compute, inputs, keys)
        rows = (
            _row(results, places[row]) if row in places else self._store.get(key)
            for row, key in enumerate(keys)
        )
        return _filled(self._layouts[shape], len(keys), rows)

    def _computed(self, compute: Compute, inputs: Arrays, keys: Sequence[bytes]) -> Arrays:
        """Compute a pass, test its shape where that wasn't done, and keep its rows where the shape is sound."""
        results, case = compute(inputs), (len(keys), _row_shape(inputs))
        if case not in self._sound and (len(keys) == 1 or keys[0] != keys[-1]):
            self._sound[case] = self._agrees(compute, inputs, keys, results)
        if self._sound.get(case) and not self._store.full:
            for row, key in enumerate(keys):
                self._store.put(key, _row(results, row))
        return results

    def _agrees(self, compute: Compute, inputs: Arrays, keys: Sequence[bytes], results: Arrays) -> bool:
        """Return whether a pass gives its rows the bits that are kept of them, or that their copies get."""
        layout = self._layouts.setdefault(_row_shape(inputs), _row_shape(results))
        if layout != _row_shape(results) or any(len(array) != len(keys) for array in results.values()):
            return False
        known = [row for row, key in enumerate(keys) if key in self._store]
        if any(self._store.get(keys[row]) != _row(results, row) for row in known):
            return False
        ends = {0, len(keys) - 1}.difference(known)
        return all(self._of_copies(compute, inputs, end) == {_row(results, end)} for end in ends)

    def _of_copies(self, compute: Compute, inputs: Arrays, row: int) -> set[bytes]:
        """Return the different results that copies of a row get with nothing beside them."""
        copies = {name: np.repeat(array[[row]], self._copies, axis=0) for name, array in inputs.items()}
        results = compute(copies)
        if any(len(array) != self._copies for array in results.values()):
            return set()
        return {_row(results, copy) for copy in range(self._copies)}


def _row_shape(arrays: Mapping[str, Array]) -> RowShape:
    return tuple((name, arrays[name].dtype.str, arrays[name].shape[1:]) for name in sorted(arrays))


def _keys(inputs: Mapping[str, Array]) -> list[bytes]:
    """Return the digest of each row's inputs as they are padded."""
    start = hashlib.blake2b(repr(_row_shape(inputs)).encode(), digest_size=16)
    keys = []
    for row in range(len(next(iter(inputs.values())))):
        digest = start.copy()
        digest.update(_row(inputs, row))
        keys.append(digest.digest())
    return keys


# rows are taken and put one by one: a pass's results are large, and a run has been found to fit without a copy
def _row(arrays: Mapping[str, Array], row: int) -> bytes:
    """Return the bytes of a row, its arrays in the order of their names."""
    return b"".join(arrays[name][row].tobytes() for name in sorted(arrays))


def _filled(layout: RowShape, count: int, rows: Iterable[bytes]) -> Arrays:
    """Return the arrays [count, ...] of a layout whose rows are given as ``_row`` writes them."""
    arrays = {name: np.empty((count, *shape), np.dtype(kind)) for name, kind, shape in layout}
    for row, payload in enumerate(rows):
        start = 0
        for array in arrays.values():
            part = np.frombuffer(payload, array.dtype, array[row].size, start)
            array[row] = part.reshape(array.shape[1:])
            start += part.nbytes
    return arrays
