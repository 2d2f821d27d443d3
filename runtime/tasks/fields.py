"""Finding the fields of a record under their usual names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from zoedge.errors import DataError

from ..data.decimal_commas import has_decimal_comma
from ..data.header import header_hint
from ..data.record import Record

LABEL_KEYS = ("label", "labels", "target", "targets", "y")
IMAGE_KEYS = ("image", "images", "x")
TEXT_KEYS = ("text", "sentence")
PAIR_KEYS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)


def find_field(record: Record, keys: Sequence[str]) -> str | None:
    """Return the first of ``keys`` that the record has."""
    return next((key for key in keys if key in record.fields), None)


def label(record: Record, keys: Sequence[str] = LABEL_KEYS) -> object:
    """Return the record's label as the file has it.

    Raises:
        DataError: it has none.
    """
    key = find_field(record, keys)
    if key is None:
        raise missing(record, "label", keys, "name the column with --label-key")
    return record.fields[key]


def texts(record: Record) -> tuple[str, str | None]:
    """Return the record's text, and its second text where it is a pair.

    Raises:
        DataError: it has none, or something else than text there.
    """
    for first, second in PAIR_KEYS:
        if first in record.fields and second in record.fields:
            return text(record, first), text(record, second)
    key = find_field(record, TEXT_KEYS)
    if key is None:
        if is_image(record):
            raise DataError(
                f"{record.where} holds an image and this bundle takes text: "
                f"give text data, or export a model for images"
            )
        raise missing(record, "text", TEXT_KEYS, "name the column with --text-key")
    return text(record, key), None


def is_pair(record: Record) -> bool:
    """Tell whether a record has two texts."""
    return any(first in record.fields and second in record.fields for first, second in PAIR_KEYS)


def text(record: Record, key: str) -> str:
    """Return a field that must be text.

    Raises:
        DataError: it is absent or something else.
    """
    if key not in record.fields:
        raise missing(record, key, (key,), "add it to the data")
    value = record.fields[key]
    if isinstance(value, str):
        return value
    if is_missing(value):
        raise DataError(
            f"{record.where} has {short(value)} as {key!r}, a missing value: fill it in or remove the row"
        )
    if isinstance(value, np.ndarray):
        raise DataError(
            f"{record.where} has an array of shape {list(value.shape)} as {key!r} and this bundle takes "
            f"text: give text data, or export a model for such arrays"
        )
    raise DataError(f"{record.where} has {short(value)} as {key!r}, which must be text: put it in quotes")


def is_missing(value: object) -> bool:
    """Tell whether a value stands for none: None, NaN, or pandas' own."""
    if isinstance(value, np.ndarray | list | tuple | dict | str):
        return False
    # what isn't equal to itself is NaN, of whatever library; pandas' NA refuses the question
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def is_image(record: Record) -> bool:
    """Tell whether a record looks like an image."""
    return any(getattr(value, "ndim", 0) >= 2 for value in record.fields.values())


def is_text(record: Record) -> bool:
    """Tell whether a record looks like text: prose, not a number or a label."""
    known = {*TEXT_KEYS, "prompt", "messages", "instruction", *(key for pair in PAIR_KEYS for key in pair)}
    return any(key in known and isinstance(value, str) for key, value in record.fields.items())


def comma_remedy(value: object) -> str:
    """Return what to do about a number with a decimal comma; "" for any other value."""
    return "write decimal points instead of decimal commas" if has_decimal_comma(value) else ""


def missing(record: Record, what: str, keys: Collection[str], remedy: str) -> DataError:
    """Return the error for a record without a field: what it has, what was looked for, the remedy."""
    found = ", ".join(record.names) or "none"
    return DataError(
        f"{record.where} has no {what}: looked for {', '.join(keys)}, its fields are {found}; {remedy}"
        f"{header_hint(record.names)}"
    )


def short(value: object) -> str:
    """Return a value for an error message, cut to a readable length."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
