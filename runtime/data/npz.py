"""NumPy archives: arrays with one row per record, read as views."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from zoedge.errors import DataError

from .record import ColumnRecords
from .splits import split_and_name

_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path, split: str) -> ColumnRecords | None:
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
    return ColumnRecords(arrays, str(path))


def npz_splits(path: Path) -> frozenset[str]:
    """Return the splits that the names of the archive's arrays tell apart; empty where there is one set."""
    try:
        with _open(path) as archive:
            names = archive.files
    except _DAMAGE as error:
        raise DataError(
            f"{path} can't be read as .npz ({_first_line(error)}): write it with numpy.savez"
        ) from error
    return frozenset(found[0] for name in names if (found := split_and_name(name)))


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
    told = {name: found for name in names if (found := split_and_name(name))}
    if not told:
        return {name: name for name in names}
    return {field: name for name, (of, field) in told.items() if of == split}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
