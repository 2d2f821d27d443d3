"""What separates the fields of a ``.csv`` file: the header tells, and where it leaves a doubt, all rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from zoedge.errors import DataError

from .header import is_number

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_TOLD = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # what Excel writes and reads as a first line
_MOST_LINES = 64  # of a header whose quoted names hold line breaks


def told_separator(lines: Sequence[str]) -> str | None:
    """Return the separator that a first line such as ``sep=;`` names; None where there is no such line."""
    found = _TOLD.fullmatch(lines[0]) if lines else None
    return found[1] if found else None


def separator_of(lines: Sequence[str], fits: Callable[[str], bool], where: str) -> str:
    """Return what separates the fields of a table.

    A separator is one that the header holds outside of quotes. Where it holds several, the one by which every
    row has as many fields as the header.

    Args:
        lines: of the file.
        fits: tells whether all rows are as wide as the header, given a separator.
        where: the header, for errors.

    Raises:
        DataError: all rows fit by several.
    """
    header = _QUOTED.sub("", _header(lines))
    found = [separator for separator in SEPARATORS if separator in header]
    if len(found) < 2:
        return found[0] if found else ","
    fitting = [separator for separator in found if fits(separator)]
    if ";" in fitting and all(is_number(cell.replace(",", ".", 1)) for cell in header.split(";")):
        return ";"  # a row of numbers with decimal commas
    if len(fitting) > 1:
        names = " or ".join(SEPARATORS[separator] for separator in fitting)
        raise DataError(
            f"{where} could be separated by {names}, as every row fits either way: "
            f"put quotes around the column names"
        )
    return (fitting or found)[0]


def _header(lines: Sequence[str]) -> str:
    """Return the first row that isn't blank, with all its lines."""
    text = ""
    for line in lines[:_MOST_LINES]:
        text += line
        if text.strip() and text.count('"') % 2 == 0:
            return text
    return next((line for line in lines if line.strip()), "")
