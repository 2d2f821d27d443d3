"""Parquet files, through the optional package ``pyarrow``: the one place that imports it."""

from __future__ import annotations

import re
from pathlib import Path

from zoedge.errors import DataError, MissingPackageError

from .coded import class_names
from .in_memory import RowRecords

_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls the index of sorted or sampled rows


def read_parquet(path: Path) -> RowRecords:
    """Return the rows of a ``.parquet`` file, without the columns of pandas' index that has no name.

    Raises:
        MissingPackageError: ``pyarrow`` isn't installed.
        DataError: the file can't be read.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise MissingPackageError("pyarrow", "parquet", f"reading {path}") from error
    try:
        table = read_table(path)
        table = table.drop_columns([name for name in table.column_names if _INDEX.fullmatch(name)])
        return RowRecords(table.to_pylist(), str(path), class_names(table))
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} can't be read as Parquet ({reason}): write the file again") from error
