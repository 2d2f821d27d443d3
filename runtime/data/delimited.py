"""Comma- and tab-separated tables; without a header line, columns are called by their positions: 1, 2, ..."""

from __future__ import annotations

import csv
from pathlib import Path

from zoedge.errors import DataError

from .lines import read_lines
from .record import Record


class _Csv(csv.excel):
    strict = True  # a quote that isn't closed is an error, not the rest of the file


class _Tsv(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def read_csv(path: Path) -> list[Record]:
    """Return the rows of a ``.csv`` file as text; quoted fields may hold commas, quotes and line breaks.

    Raises:
        DataError: a row of another width, a quote that isn't closed, or bytes that aren't UTF-8.
    """
    return _read(path, _Csv)


def read_tsv(path: Path) -> list[Record]:
    """Return the rows of a ``.tsv`` file as text; a quote is an ordinary character there, as in GLUE.

    Raises:
        DataError: a row of another width, or bytes that aren't UTF-8.
    """
    return _read(path, _Tsv)


def _read(path: Path, dialect: type[csv.Dialect]) -> list[Record]:
    reader = csv.reader(read_lines(path), dialect)
    header: list[str] | None = None
    records: list[Record] = []
    while True:
        where = f"{path}:{reader.line_num + 1}"  # a row may span lines: name its first
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where} is malformed ({error}): check the quotes of this row") from error
        if row is None:
            return records
        if not row:
            continue
        if header is None:
            header = _header(row, where)
            if header is not None:
                continue
            header = [str(position) for position in range(1, len(row) + 1)]
        if len(row) != len(header):
            raise DataError(
                f"{where} has {len(row)} fields and the header names {len(header)} "
                f"({', '.join(header)}): put quotes around fields that hold the separator"
            )
        records.append(Record(dict(zip(header, row, strict=True)), where))


def _header(row: list[str], where: str) -> list[str] | None:
    """Return the names of the columns; None where the file begins with a row of numbers."""
    names = [name.strip() for name in row]
    counted = [[str(position + start) for position in range(len(names))] for start in (0, 1)]
    if all(_is_number(name) for name in names) and names not in counted:  # which other tools write as names
        return None
    for name in names:
        if not name or names.count(name) > 1:
            problem = f"names the column {name!r} twice" if name else "has a column without a name"
            raise DataError(f"{where} {problem}: give each column a name of its own")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
