"""Data that a program holds, as records: the one adapter for whatever isn't a path or a hub id."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from zoedge.errors import DataError

from .coded import Names, class_names, with_names
from .record import ColumnRecords, LazyRecords, Record, record_of
from .splits import SPLIT_NAMES, Split, split_and_name

IN_MEMORY = "rows in memory"  # what a run calls its data that no path leads to
SOURCE = "data"  # rows are called data[0], data[1], ...
_ALIASES = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}
_SHAPES = (
    "give a path, a list of dicts, a dict of arrays, a pandas DataFrame, a datasets.Dataset, "
    "or a dict of these by split"
)

# a path or a hub id; or rows: a list of dicts, a dict of arrays, a DataFrame, a Dataset, or one of these by split
Data = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]


class InMemory:
    """The rows that a program gave, by split; ``str`` of it says what there is.

    Attributes:
        told: whether splits are told apart; otherwise one set of rows is both the train and the test split.
    """

    def __init__(self, splits: Mapping[str, Sequence[Record]], *, told: bool) -> None:
        self._splits, self.told = splits, told

    def __str__(self) -> str:
        counts = [f"{len(rows)} {split}" for split, rows in self._splits.items() if self.told]
        return f"{IN_MEMORY} ({', '.join(counts)})" if counts else IN_MEMORY

    @property
    def splits(self) -> frozenset[str]:
        """The splits that are told apart; empty where there is one set of rows."""
        return frozenset(self._splits) if self.told else frozenset()

    def read(self, split: Split) -> Sequence[Record] | None:
        """Return the rows of a split; None where there is no such one."""
        if not self.told:
            return None if split == "valid" else self._splits["train"]
        return self._splits.get(split)

    def save(self, path: Path) -> None:
        """Write the rows for a process of this program's own.

        Raises:
            DataError: a row holds what can't be written.
        """
        splits = {
            name: [(dict(r.fields), r.where, r.replaced) for r in rows] for name, rows in self._splits.items()
        }
        try:
            path.write_bytes(pickle.dumps((self.told, splits)))
        except Exception as error:  # a row may hold any object
            raise DataError(
                f"the rows in memory can't be handed to a rehearsal of the run ({_said(error)}): "
                f"give plain texts, numbers and arrays"
            ) from error

    @classmethod
    def load(cls, path: Path) -> InMemory:
        """Return what ``save`` wrote; for files of this program's own alone."""
        told, splits = pickle.loads(path.read_bytes())  # the asking process has written it
        return cls({name: [Record(*row) for row in rows] for name, rows in splits.items()}, told=told)


def as_data(data: Any) -> str | InMemory:
    """Return a path or a hub id as text, and anything else as its rows.

    Args:
        data: a path; a list or another iterable of dicts; a dict of arrays, lists or columns; a pandas or polars
            ``DataFrame``; a pyarrow ``Table``; a ``datasets.Dataset``; or a dict of any of these by the names
            of splits, such as a ``datasets.DatasetDict``. An iterator is read once, into a list.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(data, InMemory):
        return data
    if isinstance(data, str | os.PathLike):
        text = os.fspath(data)
        if isinstance(text, str) and text.startswith(IN_MEMORY) and not os.path.exists(text):
            raise DataError(f"the run was tuned on {text}: give the same rows again, from Python")
        if isinstance(text, str) and text.strip():
            return text
        raise DataError(f"{text!r} names no data: {_SHAPES}")
    return rows_held(data)


def rows_held(data: Any, source: str = SOURCE) -> InMemory:
    """Return rows that a program or a file gave as one object.

    Args:
        data: as for ``as_data``, but no path.
        source: what rows are called after in errors.

    Raises:
        DataError: it is nothing that holds rows.
    """
    if isinstance(data, Mapping):
        names = [name for name in data if _ALIASES.get(name) and _is_table(data[name])]
        if names:
            return InMemory(
                {_ALIASES[name]: _rows(data[name], f"{source}[{name!r}]") for name in names}, told=True
            )
        told = {str(name): found for name in data if (found := split_and_name(str(name)))}
        if told:
            splits = {split for split, _ in told.values()}
            by_split = {s: {field: data[n] for n, (of, field) in told.items() if of == s} for s in splits}
            return InMemory({s: _columns(columns, source) for s, columns in by_split.items()}, told=True)
    return InMemory({"train": _rows(data, source)}, told=False)


def _is_table(value: Any) -> bool:
    """Tell whether a value holds rows of several fields, rather than one column."""
    if isinstance(value, Mapping) or hasattr(value, "column_names") or hasattr(value, "columns"):
        return True
    return isinstance(value, list | tuple) and len(value) > 0 and isinstance(value[0], Mapping)


def _rows(data: Any, source: str) -> Sequence[Record]:
    try:
        return _converted(data, source)
    except DataError:
        raise
    except Exception as error:  # the code of other libraries, or of the user
        raise DataError(f"{source} can't be read as rows ({_said(error)}): {_SHAPES}") from error


def _converted(data: Any, source: str) -> Sequence[Record]:
    if isinstance(data, Mapping):
        return _columns(data, source)
    for method in ("to_dicts", "to_pylist"):  # polars, pyarrow
        if callable(getattr(data, method, None)):
            return RowRecords(getattr(data, method)(), source, class_names(data))
    if hasattr(data, "columns") and hasattr(data, "iloc"):  # pandas
        return _columns({name: data[name] for name in _named_once(list(data.columns), source)}, source)
    if isinstance(data, str | bytes | np.ndarray) or not (
        isinstance(data, Iterable) or hasattr(data, "__getitem__")
    ):
        raise DataError(f"{source} is {_kind(data)}, which holds no named fields: {_SHAPES}")
    indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    rows = RowRecords(data if indexed else list(data), source, class_names(data))
    if len(rows):
        rows[0]  # what is no dict is said before anything else is done
    return rows


def _named_once(names: list[Any], source: str) -> list[Any]:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{source} has two columns called {name!r}: give each a name of its own")
    return names


def _columns(columns: Mapping[Any, Any], source: str) -> ColumnRecords:
    found = {str(name): _column(value, f"{source}[{name!r}]") for name, value in columns.items()}
    if not found:
        raise DataError(f"{source} is an empty dict: {_SHAPES}")
    sizes = {name: len(column) for name, column in found.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(f"{source} has columns of different lengths ({shown}): give each one value per row")
    return ColumnRecords(found, source)


def _column(value: Any, where: str) -> Any:
    """Return a column as a list or an array whose first axis is the rows."""
    if isinstance(value, list | tuple):
        return value
    with suppress(Exception):  # a tensor elsewhere, or a method of the same name
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
        if array.ndim > 0:
            return array
    raise DataError(f"{where} is {_kind(value)}: give a list or an array with one value per row")


class RowRecords(LazyRecords):
    """Records of rows that are dicts; ``names`` are those of the classes of some fields."""

    def __init__(self, rows: Any, source: str, names: Names = MappingProxyType({})) -> None:
        self._rows, self._source, self._names = rows, source, names

    def __len__(self) -> int:
        return len(self._rows)

    def _at(self, row: int) -> Record:
        where = f"{self._source}[{row}]"
        try:
            fields = self._rows[row]
        except Exception as error:  # the code of other libraries, or of the user
            raise DataError(f"{where} can't be read ({_said(error)}): correct the data") from error
        if not isinstance(fields, Mapping):
            raise DataError(
                f"{where} is {_kind(fields)}: give a dict for each row, like {{'text': 'a', 'label': 'b'}}"
            )
        return record_of(with_names(fields, self._names), where)


def _kind(value: Any) -> str:
    shown = " ".join(repr(value).split())
    return f"the {type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
