"""An encoded data set: every record checked once, kept where it is small."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from .example import Example
from .record import Record, Subset

if TYPE_CHECKING:
    from ..tasks.base import Task

KEEP_BYTES = 64 << 20  # examples beyond this are encoded again whenever they are used
_OBJECT_BYTES = 1024  # of Python objects around an example's arrays


Counts = NDArray[np.int64]


def _none() -> Counts:
    return np.zeros(0, np.int64)  # of rows that were made up


@dataclass(frozen=True)
class Dataset:
    """The examples of some records, in their order.

    Attributes:
        examples: by row.
        lengths: int64 [rows], tokens of each example (0 where the task has none).
        digests: BLAKE2b-128 of each example's arrays.
        cut: int64 [rows], tokens that each row lost as it is longer than the model takes.
        replaced: int64 [rows], characters of each row that were no valid Unicode and became U+FFFD.
        classes: int64 [rows], where each target is one class; None where it is something else.
    """

    examples: Sequence[Example]
    lengths: NDArray[np.int64]
    digests: tuple[bytes, ...]
    cut: Counts = field(default_factory=_none)
    replaced: Counts = field(default_factory=_none)
    classes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def digest(self) -> str:
        """Hex BLAKE2b-256 over the encoded arrays in order.

        A run's journal carries it, so that ``--resume`` on other data, training or validation, is refused.
        """
        return hashlib.blake2b(b"".join(self.digests), digest_size=32).hexdigest()

    def subset(self, rows: NDArray[np.int64]) -> Dataset:
        """Return some rows, in the order given."""
        if isinstance(self.examples, _Encoded):
            examples: Sequence[Example] = self.examples.subset(rows)
        else:
            examples = [self.examples[int(row)] for row in rows]
        digests = tuple(self.digests[int(row)] for row in rows)
        cut, replaced = (counts[rows] if len(counts) else counts for counts in (self.cut, self.replaced))
        classes = None if self.classes is None else self.classes[rows]
        return Dataset(examples, self.lengths[rows], digests, cut, replaced, classes)


def encode_rows(
    records: Sequence[Record], task: Task, *, labelled: bool = True, keep_bytes: int = KEEP_BYTES
) -> Dataset:
    """Encode records, so that a bad row is found before the first step.

    The examples are kept while they take less than ``keep_bytes`` in all; beyond that each is encoded again
    when it is used.

    Args:
        records: the rows.
        task: encodes them.
        labelled: False for prediction.
        keep_bytes: most memory for examples.

    Raises:
        DataError: a record that the task can't encode.
    """
    kept: list[Example] | None = []
    lengths, digests, size = [], [], 0
    cut, replaced = [], []
    classes: list[int | None] = []
    for record in records:
        example = task.encode(record, labelled=labelled)
        cut.append(example.cut)
        replaced.append(record.replaced)
        lengths.append(example.length)
        digests.append(_digest(example))
        classes.append(_class(example))
        size += _OBJECT_BYTES + sum(a.nbytes for a in (*example.inputs.values(), *example.targets.values()))
        if size > keep_bytes:
            kept = None
        elif kept is not None:
            kept.append(example)
    examples = kept if kept is not None else _Encoded(records, task, labelled)
    known = [c for c in classes if c is not None]
    of_rows = np.array(known, np.int64) if len(known) == len(classes) else None
    counts = [np.array(values, np.int64) for values in (lengths, cut, replaced)]
    return Dataset(examples, counts[0], tuple(digests), counts[1], counts[2], of_rows)


def _class(example: Example) -> int | None:
    """Return the one class that a row's target is."""
    targets = list(example.targets.values())
    if len(targets) != 1 or targets[0].shape != () or targets[0].dtype.kind not in "iu":
        return None
    return int(targets[0])


class _Encoded(Sequence[Example]):
    """Examples that are encoded each time they are asked for."""

    def __init__(self, records: Sequence[Record], task: Task, labelled: bool) -> None:
        self._records, self._task, self._labelled = records, task, labelled

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, row: int) -> Example: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Example]: ...
    def __getitem__(self, row: int | slice) -> Example | Sequence[Example]:
        if isinstance(row, slice):
            return self.subset(np.arange(len(self))[row])
        return self._task.encode(self._records[row], labelled=self._labelled)

    def subset(self, rows: NDArray[np.int64]) -> _Encoded:
        """Return some rows, in the order given."""
        return _Encoded(Subset(self._records, rows), self._task, self._labelled)


def _digest(example: Example) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for kind, arrays in (("input", example.inputs), ("target", example.targets)):
        for name in sorted(arrays):
            array = arrays[name]
            digest.update(f"{kind} {name} {array.dtype.str} {array.shape};".encode())
            digest.update(array.tobytes())
    return digest.digest()
