"""Tables whose first line names no columns: how they are noticed, and read as another table with a header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .record import LazyRecords, Record

_LINE = 50  # names of a header line that can be copied from a message
_WORDS = 4  # of a name, from which on it rather is a text


def numbered(names: Sequence[str]) -> bool:
    """Tell whether columns have no names but their positions, as those of a file without a header line."""
    start = names[0] if names else ""
    return start in ("0", "1") and list(names) == [str(int(start) + i) for i in range(len(names))]


def looks_like_row(names: Sequence[str]) -> bool:
    """Tell whether what is taken for names may be a row of data: numbers or texts are among them."""
    return numbered(names) or any(is_number(name) or len(name.split()) >= _WORDS for name in names)


def header_hint(names: Sequence[str], header: Sequence[str] = ()) -> str:
    """Return what to do about a missing header line, to be put behind a sentence; "" where names look like names.

    Args:
        names: of the file's columns.
        header: what they should be, where that is known.
    """
    if not looks_like_row(names):
        return ""
    line = (
        f"the header line {','.join(header)}" if 0 < len(header) <= _LINE else "a line that names its columns"
    )
    found = "the file has no header line" if numbered(names) else "if its first line is a row of data"
    return f"; {found}{':' if numbered(names) else ','} put {line} above it"


def headed(
    records: Sequence[Record], header: Sequence[str], features: Sequence[str]
) -> Sequence[Record] | None:
    """Return a file's records under the names that another file with the same columns has.

    Args:
        records: as read.
        header: the columns of the other file in their order; () where it has no names either.
        features: those of them that make the input, in its order: all that a file for prediction must have.

    Returns:
        The records; None where the file names its columns, or has others.
    """
    found = tuple(records[0].fields)
    if not header or numbered(header) or not numbered(found):
        return None
    fitting = (names for names in (tuple(header), tuple(features)) if len(names) == len(found))
    names = next(fitting, None)
    return None if names is None else _Headed(records, names)


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Headed(LazyRecords):
    def __init__(self, records: Sequence[Record], names: tuple[str, ...]) -> None:
        self._records, self._names = records, names

    def __len__(self) -> int:
        return len(self._records)

    def _at(self, row: int) -> Record:
        record = self._records[row]
        return replace(record, fields=dict(zip(self._names, record.fields.values(), strict=True)))
