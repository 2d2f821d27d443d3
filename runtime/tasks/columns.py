"""The columns of a table: which are the graph's input, in which order, and which is the target.

A graph whose only input is a row of numbers doesn't say what they are. So the order of the first training
file decides, or the feature names that the source had; later files are read by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoedge.errors import DataError, near
from zoedge.manifest import Manifest, Port

from ..data.header import header_hint, looks_like_row, numbered
from ..data.record import LazyRecords, Record
from . import fields
from .arrays import label_keys, number

_ARRAYS = ("classification", "regression")  # the tasks that take arrays, unless they take text
_SHOWN = 8  # names in a sentence
_RENAMED = "label"  # what the column that --label-key names is called here


@dataclass(frozen=True)
class Columns:
    """How the records of one file are read.

    Attributes:
        features: the columns that make the input, in its order; () where the input isn't made of columns.
        target: the columns that make the label; () where the file has none.
        ignored: columns that are neither.
        positions: whether the file names no columns, so that their positions count.
    """

    features: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    positions: bool = False

    def told(self, label: str | None = None) -> str:
        """Return which columns are what in words; ``label`` is what the user's file calls the target."""
        like = "" if all(name.isdigit() for name in self.features) else " as in training"
        positions = f"no header line, so by position{like}: " if self.positions else ""
        ignored = f"; ignored {names_of(self.ignored)}" if self.ignored else ""
        target = label if label and self.target == (_RENAMED,) else names_of(self.target) or "none"
        return f"{positions}input {names_of(self.features)}; target {target}{ignored}"


def names_of(names: Sequence[str]) -> str:
    """Return names in a sentence: all, or the first and the last of many."""
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[: _SHOWN - 2])}, ... {names[-1]} ({len(names)} columns)"


def columns_of(
    records: Sequence[Record], manifest: Manifest, known: Sequence[str] = (), header: Sequence[str] = ()
) -> Columns:
    """Return how a file's records are read; its first row stands for all.

    Args:
        records: as read and renamed.
        manifest: the bundle's.
        known: names of the features in the input's order, from the run or the source; () takes the file's own.
            A file that names no columns is read by position all the same.
        header: the columns of the run's training file, for errors.

    Raises:
        DataError: a column of ``known`` is missing.
    """
    first = records[0]
    if not _made_of_columns(first, manifest):
        return Columns()
    width = _elements(manifest.inputs[0])
    key = fields.find_field(first, label_keys(manifest.inputs))
    names = tuple(name for name in first.fields if name != key)
    if key is None and numbered(names):
        fits = len(names) in (width, width + _elements(manifest.targets[0]))
        return Columns(names[:width], names[width:], positions=True) if fits else Columns()
    missing = [name for name in known if name not in names]
    if len(missing) == len(known) and key is not None and numbered(first.names) and len(names) == width:
        return Columns(names, (key,), positions=True)
    if missing:
        raise _missing(first, missing, known, header)
    features = tuple(known) or tuple(name for name in names if number(first.fields[name]) is not None)
    if len(features) != width:
        return Columns()  # encoding says what is wrong
    ignored = tuple(name for name in names if name not in set(features))
    return Columns(features, (key,) if key is not None else (), ignored)


def told(record: Record, columns: Columns, manifest: Manifest, label: str | None) -> str:
    """Return which fields became input and target, in words; "" where a task looks for fields by itself.

    Args:
        record: the file's first.
        columns: of the file.
        manifest: the bundle's.
        label: what the user's file calls the target, where that was said.
    """
    if columns.features:
        return columns.told(label)
    if manifest.task not in _ARRAYS or manifest.text is not None:
        return ""
    key = fields.find_field(record, label_keys(manifest.inputs))
    named = [port.name for port in manifest.inputs if port.name in record.fields]
    arrays = [n for n, value in record.fields.items() if n != key and isinstance(value, np.ndarray | list)]
    return f"input {names_of(named or arrays)}; target {(label if key == _RENAMED else key) or key or 'none'}"


def by_name(records: Sequence[Record], columns: Columns, manifest: Manifest) -> Sequence[Record]:
    """Return records that hold the graph's input and the label, whatever the order of a file's columns."""
    return _ByName(records, columns, manifest.inputs) if columns.features else records


class _ByName(LazyRecords):
    def __init__(self, records: Sequence[Record], columns: Columns, ports: tuple[Port, ...]) -> None:
        self._records, self._columns, self._input = records, columns, ports[0].name
        self._label = label_keys(ports)[0]

    def __len__(self) -> int:
        return len(self._records)

    def _at(self, row: int) -> Record:
        record = self._records[row]
        found: dict[str, Any] = {self._input: [_value(record, name) for name in self._columns.features]}
        labels = [record.fields[name] for name in self._columns.target if name in record.fields]
        if labels:
            found[self._label] = labels[0] if len(labels) == 1 else labels
        return replace(record, fields=found, columns=record.names)


def _value(record: Record, name: str) -> float:
    if name not in record.fields:
        raise _missing(record, [name], (), ())
    value = number(record.fields[name])
    if value is None or not math.isfinite(value):
        raise DataError(
            f"{record.where} has {fields.short(record.fields[name])} in the column {name!r}, which takes finite "
            f"numbers: {fields.comma_remedy(record.fields[name]) or 'correct the value'}"
        )
    return value


def _made_of_columns(record: Record, manifest: Manifest) -> bool:
    if manifest.task not in _ARRAYS or manifest.text is not None:
        return False
    if len(manifest.inputs) != 1 or manifest.inputs[0].name in record.fields or fields.is_text(record):
        return False
    if any(isinstance(dim, str) for dim in manifest.inputs[0].shape[1:]):
        return False
    key = fields.find_field(record, label_keys(manifest.inputs))
    return not any(isinstance(v, np.ndarray | list) for name, v in record.fields.items() if name != key)


def _elements(port: Port) -> int:
    """Return how many numbers a row has at a port."""
    return math.prod(dim for dim in port.shape[1:] if isinstance(dim, int))


def _missing(record: Record, names: Sequence[str], known: Sequence[str], header: Sequence[str]) -> DataError:
    columns = "columns" if len(names) > 1 else "column"
    all_names = f"; its columns are {names_of(record.names)}"
    if numbered(known):
        hint, remedy = (
            all_names,
            ": the run was tuned on a file without a header line, so put this one's columns into the order of that "
            "file's and take its header line away",
        )
    elif len(names) == len(known) and looks_like_row(record.names):
        hint, remedy = all_names, header_hint(record.names, header)
    else:
        hint, remedy = (
            near(names[0], [n for n in record.names if n not in known]) or all_names,
            ": give the columns these names",
        )
    return DataError(
        f"{record.where} lacks the {columns} {names_of(names)}, which the model's input is made of{hint}{remedy}"
    )
