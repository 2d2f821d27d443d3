"""Tables of text; without a header line, columns are called by their positions: 1, 2, ..."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zoedge.errors import DataError

from .decimal_commas import has_decimal_comma, with_points
from .header import header_hint, is_number
from .lines import read_lines
from .quotes import quotes_fields
from .record import Record
from .separator import separator_of, told_separator

_MANY = 4  # columns; a row that holds each position once is no row of data then
_INDEX_NAMES = ("", "Unnamed: 0")  # what pandas calls a table's index, written once and written again


Row = tuple[list[str], str]  # the fields, and where they stand


class _Csv(csv.excel):
    strict = True  # a quote that isn't closed is an error, not the rest of the file


class _Tsv(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def read_csv(path: Path) -> list[Record]:
    """Return the rows of a ``.csv`` file as text; quoted fields may hold separators, quotes and line breaks.

    Fields are separated by commas, semicolons, tabs or bars, as ``separator.separator_of`` finds out. A first
    column of row numbers without a name, as pandas writes it, is left out, and so are empty ones without a name.
    Between semicolons, columns of numbers may have decimal commas, and are returned with points.

    Raises:
        DataError: a row of another width, a quote that isn't closed, several possible separators, or bytes that
            aren't text.
    """
    lines = list(read_lines(path))
    told = told_separator(lines)
    if told is not None:
        return _parse(lines[1:], _csv(told), path, 2)

    def fits(separator: str) -> bool:
        try:
            _parse(lines, _csv(separator), path)
        except DataError:
            return False
        return True

    return _parse(lines, _csv(separator_of(lines, fits, f"{path}:1")), path)


def read_tsv(path: Path) -> list[Record]:
    """Return the rows of a ``.tsv`` file as text; a quote is an ordinary character there, as in GLUE.

    Unless all quotes are as a program that puts them around fields writes them.

    Raises:
        DataError: a row of another width, or bytes that aren't text.
    """
    lines = list(read_lines(path))
    return _parse(lines, csv.excel_tab if quotes_fields(lines, csv.excel_tab) else _Tsv, path)


def _csv(separator: str) -> type[csv.Dialect]:
    return type("_Separated", (_Csv,), {"delimiter": separator})


def _parse(lines: Sequence[str], dialect: type[csv.Dialect], path: Path, first: int = 1) -> list[Record]:
    """Return the records; ``first`` is the number of the first of the lines."""
    reader = csv.reader(lines, dialect)
    header: list[str] | None = None
    rows: list[Row] = []
    while True:
        where = f"{path}:{reader.line_num + first}"  # a row may span lines: name its first
        try:
            with _long_fields():
                row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where} is malformed ({error}): check the quotes of this row") from error
        if row is None:
            if _has_commas(dialect):
                rows = _decimal(header or [], rows, path)
            return _records(header or [], rows, path)
        if not row:
            continue
        if header is None:
            header = _header(row, where, commas=_has_commas(dialect))
            if header is not None:
                continue
            header = [str(position) for position in range(1, len(row) + 1)]
        if len(row) != len(header):
            raise DataError(
                f"{where} has {len(row)} fields and the header names {len(header)} "
                f"({', '.join(header)}): put quotes around fields that hold the separator"
            )
        rows.append((row, where))


def _has_commas(dialect: type[csv.Dialect]) -> bool:
    """Tell whether a comma between digits may stand for a decimal point, as it separates nothing."""
    return dialect.delimiter == ";"


def _decimal(header: list[str], rows: list[Row], path: Path) -> list[Row]:
    """Return the rows with decimal points in the columns that have decimal commas."""
    columns = [[row[place] for row, _ in rows] for place in range(len(header))]
    fields = zip(*with_points(columns, header, str(path)), strict=True)
    return [(list(row), where) for row, (_, where) in zip(fields, rows, strict=True)]


def _records(header: list[str], rows: list[Row], path: Path) -> list[Record]:
    left_out = {place for place in range(len(header)) if _says_nothing(header, rows, place)}
    if any(not name and place not in left_out for place, name in enumerate(header)):
        raise DataError(f"{path}:1 has a column without a name: give each column a name of its own")
    kept = [(place, name) for place, name in enumerate(header) if place not in left_out]
    return [Record({name: row[place] for place, name in kept}, where) for row, where in rows]


def _says_nothing(header: list[str], rows: list[Row], place: int) -> bool:
    """Tell whether a column without a name of its own is empty, or is the first and numbers the rows."""
    if header[place] not in _INDEX_NAMES:
        return False
    values = [row[place] for row, _ in rows]
    if not header[place] and not any(value.strip() for value in values):
        return True
    return place == 0 and len(set(values)) == len(values) and all(map(_is_row_number, values))


def _is_row_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let fields be longer than the 131,072 characters at which the module csv stops."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _counts_columns(names: list[str]) -> bool:
    """Return whether these are positions, as other tools write for names; in another order where rows can't be so."""
    counted = [[str(position + start) for position in range(len(names))] for start in (0, 1)]
    return names in counted or (len(names) >= _MANY and sorted(names) in map(sorted, counted))


def _header(row: list[str], where: str, *, commas: bool) -> list[str] | None:
    """Return the names of the columns; None where the file begins with a row of numbers."""
    names = [name.strip() for name in row]
    numbers = (is_number(name) or (commas and has_decimal_comma(name)) for name in names)
    if all(numbers) and not _counts_columns(names):
        return None
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(
                f"{where} names the column {name!r} twice: give each column a name of its own{header_hint(names)}"
            )
    return names
