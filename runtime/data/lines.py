"""Lines of a text file, numbered: UTF-8, or UTF-16 as spreadsheets write it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from zoedge.errors import DataError

_BOM = codecs.BOM_UTF8


def read_lines(path: Path) -> Iterator[str]:
    r"""Yield a file's lines with their line ends; line n is the n-th item. A byte order mark is dropped.

    A line ends with ``\n``, ``\r\n`` or a lone ``\r``. A file that begins as UTF-16 does, with its byte order
    mark or with every other byte zero, is read as that, any other as UTF-8.

    Raises:
        DataError: the file can't be opened, or holds bytes that aren't text in its encoding.
    """
    try:
        with path.open("rb") as file:
            lines = file.readlines()  # at once: a reader that stops early leaves no open file
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    encoding = _utf16(lines[0] + b"".join(lines[1:2]) if lines else b"")
    if encoding is not None:
        lines = _as_utf8(b"".join(lines), encoding, path)
    number = 0
    for whole in lines:
        for raw in whole.splitlines(keepends=True):
            number += 1
            yield _decode(raw.removeprefix(_BOM) if number == 1 else raw, path, number)


def read_text(path: Path) -> str:
    """Return a whole file as text.

    Raises:
        DataError: as ``read_lines`` does.
    """
    return "".join(read_lines(path))


def _utf16(head: bytes) -> str | None:
    """Return the encoding of a file that begins like UTF-16."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = "".join("0" if byte == 0 else "x" for byte in head[:4])
    return {"x0x0": "utf-16-le", "0x0x": "utf-16-be"}.get(zeros)


def _as_utf8(raw: bytes, encoding: str, path: Path) -> list[bytes]:
    try:
        return [raw.decode(encoding).encode("utf-8")]
    except UnicodeDecodeError as error:
        line = raw[: error.start].decode(encoding, "replace").count("\n") + 1
        raise DataError(
            f"{path}:{line} is not UTF-16, though the file begins like it ({error.reason}): write it as UTF-8"
        ) from error


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number} is not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}): "
            f"convert the file, for example with iconv -f latin1 -t utf-8"
        ) from error
