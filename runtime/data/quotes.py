"""Whether a table's quotes stand around fields, or are characters of its texts like others."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence


def quotes_fields(lines: Sequence[str], dialect: type[csv.Dialect]) -> bool:
    """Return whether a program wrote these lines with quotes: writing again what they say gives the same lines.

    A sentence that merely begins, ends or is wrapped in quotes would be written otherwise.

    Args:
        lines: of the whole file, with their ends.
        dialect: the table's, with quotes around fields.
    """
    if not any('"' in line for line in lines):
        return False
    try:
        rows = list(csv.reader(lines, dialect, strict=True))
    except csv.Error:
        return False
    return any(
        _written(rows, dialect, needs) == list(map(_bare, lines)) for needs in (_special, _any, _is_text)
    )


def _written(
    rows: Sequence[Sequence[str]], dialect: type[csv.Dialect], needs: Callable[[str], bool]
) -> list[str]:
    """Return the lines of rows with quotes around the fields that need some."""
    fields = (
        (f'"{field.replace(chr(34), 2 * chr(34))}"' if needs(field) else field for field in row)
        for row in rows
    )
    return list(map(_bare, io.StringIO("".join(f"{dialect.delimiter.join(row)}\n" for row in fields))))


def _special(field: str) -> bool:
    return any(character in field for character in '\t\r\n"')


def _any(field: str) -> bool:
    return True


def _is_text(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return True
    return False


def _bare(line: str) -> str:
    return line.rstrip("\r\n")
