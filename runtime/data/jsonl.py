"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoedge.errors import DataError

from .lines import read_lines
from .record import Record
from .unicode import clean_text


def read_jsonl(path: Path) -> list[Record]:
    """Return the records of a ``.jsonl`` file; blank lines are skipped.

    Raises:
        DataError: a line that isn't text, isn't JSON or isn't an object.
    """
    return parse_lines(read_lines(path), path)


def parse_lines(lines: Iterable[str], path: Path) -> list[Record]:
    """Return a record per line that isn't blank; ``path`` names the file in errors."""
    return [
        _record(_parse(line, f"{path}:{number}"), f"{path}:{number}", "\\u" in line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _record(fields: dict[str, Any], where: str, escaped: bool) -> Record:
    if not escaped:  # what was decoded from UTF-8 is valid, but for escapes like \ud83d
        return Record(fields, where)
    valid = clean_text(fields)
    return Record(valid.value, where, valid.replaced)


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        column = len(line[: error.pos].rstrip("\r\n")) + 1  # where the line ends too early, its end
        raise DataError(
            f"{where} is not JSON ({error.msg} at column {column}): write one whole object on each line"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{where} can't be read ({error}): correct the line") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply: write one flat object on each line") from error
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else repr(value)[:40]
        raise DataError(f"{where} holds {kind}: write one object in braces on each line")
    return value
