"""Lines of a UTF-8 text file, numbered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zoedge.errors import DataError

_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[str]:
    """Yield a file's lines with their line ends; line n is the n-th item. A byte order mark is dropped.

    Raises:
        DataError: the file can't be opened, or a line isn't UTF-8.
    """
    try:
        with path.open("rb") as file:
            lines = file.readlines()  # at once: a reader that stops early leaves no open file
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    for number, raw in enumerate(lines, 1):
        yield _decode(raw.removeprefix(_BOM) if number == 1 else raw, path, number)


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number} is not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}): "
            f"convert the file, for example with iconv -f latin1 -t utf-8"
        ) from error
