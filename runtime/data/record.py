"""A record: one row of a data file, as the file has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .unicode import clean_text


@dataclass(frozen=True)
class Record:
    """One row.

    Attributes:
        fields: name -> value: text, number, list, or an array where the file holds arrays.
        where: "file:line" or "file[row]", for error messages.
        replaced: how many characters of its texts were no valid Unicode and became U+FFFD.
        columns: what the file calls its fields, where they were renamed or put together since.
    """

    fields: Mapping[str, Any]
    where: str
    replaced: int = 0
    columns: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The fields as the user knows them."""
        return self.columns or tuple(map(str, self.fields))


def record_of(fields: Mapping[Any, Any], where: str) -> Record:
    """Return a record of fields that may hold any text: names become text, and texts valid Unicode."""
    valid = clean_text({str(name): value for name, value in fields.items()})
    return Record(valid.value, where, valid.replaced)


class LazyRecords(Sequence[Record]):
    """Records made when they are asked for; a subclass gives ``__len__`` and ``_at``."""

    def _at(self, row: int) -> Record:
        raise NotImplementedError

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Record]: ...
    def __getitem__(self, row: int | slice) -> Record | Sequence[Record]:
        if isinstance(row, slice):
            return Subset(self, np.arange(len(self))[row])
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return self._at(row % len(self))

    def __iter__(self) -> Iterator[Record]:
        return (self._at(row) for row in range(len(self)))


class Subset(LazyRecords):
    """Some rows of other records, in the order given."""

    def __init__(self, records: Sequence[Record], rows: NDArray[np.int64]) -> None:
        self._records, self._rows = records, rows

    def __len__(self) -> int:
        return len(self._rows)

    def _at(self, row: int) -> Record:
        return self._records[int(self._rows[row])]


class ColumnRecords(LazyRecords):
    """Rows of columns of one length; a record holds views of arrays, and Python's own texts and numbers."""

    def __init__(self, columns: Mapping[str, Any], source: str) -> None:
        self._columns, self._source = columns, source
        self._rows = len(next(iter(columns.values())))

    def __len__(self) -> int:
        return self._rows

    def _at(self, row: int) -> Record:
        fields = {name: _plain(column[row]) for name, column in self._columns.items()}
        return record_of(fields, f"{self._source}[{row}]")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 else value
