"""Comma- and tab-separated tables with a header line."""

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
        DataError: no header, a row of another width, a quote that isn't closed, or bytes that aren't UTF-8.
    """
    return _read(path, _Csv)


def read_tsv(path: Path) -> list[Record]:
    """Return the rows of a ``.tsv`` file as text; a quote is an ordinary character there, as in GLUE.

    Raises:
        DataError: no header, a row of another width, or bytes that aren't UTF-8.
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
        elif len(row) != len(header):
            raise DataError(
                f"{where} has {len(row)} fields and the header names {len(header)} "
                f"({', '.join(header)}): put quotes around fields that hold the separator"
            )
        else:
            records.append(Record(dict(zip(header, row, strict=True)), where))


def _header(row: list[str], where: str) -> list[str]:
    names = [name.strip() for name in row]
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{where} holds numbers where the header should be: add a first line with column names"
        )
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
