"""NumPy archives: arrays with one row per record, read as views."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from zoedge.errors import DataError

from .record import LazyRecords, Record
from .splits import SPLIT_NAMES

_ALIAS = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}
_NAMES = "|".join(_ALIAS)
_PREFIX = re.compile(rf"(?P<split>{_NAMES})_(?P<name>.+)")  # train_images
_SUFFIX = re.compile(rf"(?P<name>[xyXY])_(?P<split>{_NAMES})")  # x_train, as Keras names them
_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class ArrayRecords(LazyRecords):
    """Rows of arrays with one first dimension; a record holds views of them, text and scalars as Python's."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], source: str) -> None:
        self._arrays, self._source = arrays, source
        self._rows = len(next(iter(arrays.values())))

    def __len__(self) -> int:
        return self._rows

    def _at(self, row: int) -> Record:
        fields = {name: array[row] for name, array in self._arrays.items()}
        return Record(
            {name: value.item() if value.ndim == 0 else value for name, value in fields.items()},
            f"{self._source}[{row}]",
        )


def read_npz(path: Path, split: str) -> ArrayRecords | None:
    """Return the rows of a split of a ``.npz`` file, None where it names other splits only.

    Arrays called ``train_images`` or ``x_train`` belong to the split; where no array is called so, all
    of them do. Only the split's arrays are loaded.

    Raises:
        DataError: a damaged archive, pickled objects, or arrays with different numbers of rows.
    """
    try:
        with _open(path) as archive:
            wanted = _wanted(archive.files, split)
            arrays = {name: archive[key] for name, key in wanted.items()}
    except _DAMAGE as error:
        raise DataError(
            f"{path} can't be read as .npz ({_first_line(error)}): write it with numpy.savez"
        ) from error
    if not arrays:
        return None
    rows = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(rows.values())) > 1 or any(array.ndim == 0 for array in arrays.values()):
        found = ", ".join(f"{name} {list(arrays[name].shape)}" for name in rows)
        raise DataError(
            f"{path} holds {found}: every array needs the same number of rows as its first dimension"
        )
    return ArrayRecords(arrays, str(path))


def splits_of(path: Path) -> frozenset[str]:
    """Return the splits that the names of the archive's arrays tell apart; empty where there is one set."""
    try:
        with _open(path) as archive:
            names = archive.files
    except _DAMAGE as error:
        raise DataError(
            f"{path} can't be read as .npz ({_first_line(error)}): write it with numpy.savez"
        ) from error
    return frozenset(found[0] for name in names if (found := _split_and_name(name)))


@contextmanager
def _open(path: Path) -> Iterator[NpzFile]:
    # np.load would leave a file that it opened itself and can't read to the garbage collector
    with path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, NpzFile):
            raise ValueError("it holds one bare array")
        with archive:
            yield archive


def _wanted(names: list[str], split: str) -> dict[str, str]:
    """Return field name -> array name of a split."""
    told = {name: found for name in names if (found := _split_and_name(name))}
    if not told:
        return {name: name for name in names}
    return {field: name for name, (of, field) in told.items() if of == split}


def _split_and_name(name: str) -> tuple[str, str] | None:
    match = _PREFIX.fullmatch(name) or _SUFFIX.fullmatch(name)
    return (_ALIAS[match["split"]], match["name"]) if match else None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
