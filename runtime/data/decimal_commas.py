"""Numbers with a decimal comma, as tables separated by semicolons have them where that is the custom."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zoedge.errors import DataError

_COMMA = re.compile(r"\s*[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*([+-]?\d+([eE][+-]?\d+)?)?\s*", re.ASCII)  # or nothing at all
_POINT = re.compile(r"\s*[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_GROUPED = re.compile(r"\s*[+-]?\d{1,3}((\.\d{3})+(,\d*)?|(,\d{3})+(\.\d*)?)\s*", re.ASCII)
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*", re.ASCII)  # or a number with three decimals

Column = Sequence[str]


def has_decimal_comma(value: object) -> bool:
    """Tell whether a value is a text such as "3,14"."""
    return isinstance(value, str) and _COMMA.fullmatch(value) is not None


def with_points(columns: Sequence[Column], names: Sequence[str], where: str) -> list[Column]:
    """Return the columns of a table with decimal points where columns of numbers have decimal commas.

    Args:
        columns: the values as the file has them.
        names: of the columns.
        where: the file, for errors.

    Raises:
        DataError: commas may separate thousands, or the columns of numbers have decimal points as well.
    """
    numbers = [place for place, column in enumerate(columns) if all(map(_is_number, column))]
    with_commas = {place for place in numbers if any(map(has_decimal_comma, columns[place]))}
    if not with_commas:
        return list(columns)
    commas = [
        (names[p], value) for p in sorted(with_commas) for value in columns[p] if has_decimal_comma(value)
    ]
    others = [
        (names[p], value)
        for p in numbers
        for value in columns[p]
        if not has_decimal_comma(value) and not _WHOLE.fullmatch(value)
    ]
    remedy = "write numbers with a decimal point and without separators of thousands"
    if others:
        raise DataError(
            f"{where} has decimal commas and other points and commas in its numbers, like {_told(*commas[0])} and "
            f"{_told(*others[0])}: {remedy}"
        )
    if all(_THOUSANDS.fullmatch(value) for _, value in commas):
        raise DataError(
            f"{where} has commas in its numbers, like {_told(*commas[0])}, that may be decimal commas or separate "
            f"thousands: {remedy}"
        )
    return [
        [value.replace(",", ".") for value in column] if place in with_commas else column
        for place, column in enumerate(columns)
    ]


def _is_number(text: str) -> bool:
    return any(form.fullmatch(text) for form in (_COMMA, _WHOLE, _POINT, _GROUPED))


def _told(name: str, value: str) -> str:
    return f"{value.strip()!r} in the column {name!r}"
