"""A JSON file: a list of objects, an object that holds one, columns as pandas writes them, or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoedge.errors import DataError

from .in_memory import InMemory, rows_held
from .jsonl import parse_lines
from .lines import read_lines

_SHAPES = 'write a list of objects, or {"data": [...]}'


def read_json(path: Path) -> InMemory:
    """Return the rows of a ``.json`` file.

    Raises:
        DataError: it isn't JSON, or holds no list of objects.
    """
    lines = list(read_lines(path))
    try:
        value = json.loads("".join(lines))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object after the other
            return InMemory({"train": parse_lines(lines, path)}, told=False)
        raise DataError(
            f"{path}:{error.lineno} is not JSON ({error.msg} at column {error.colno}): correct the file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read ({error}): {_SHAPES}") from error
    rows = _rows(value)
    if rows is None:
        raise DataError(f"{path} holds no rows: {_SHAPES}")
    return rows_held(rows, str(path))


def _rows(value: Any) -> Any:
    """Return what holds the rows; None where nothing does."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value:
        return None
    kinds = {type(part) for part in value.values()}
    if {"columns", "data"} <= value.keys() and all(isinstance(row, list) for row in value["data"]):
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]  # orient="split"
    listed = [
        part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)
    ]
    if len(listed) == 1 and "train" not in value:
        return listed[0]
    if kinds == {dict} and len({tuple(column) for column in value.values()}) == 1:  # pandas' own default
        return {name: list(column.values()) for name, column in value.items()}
    return value if kinds <= {list, dict} else None


def json_splits(path: Path) -> frozenset[str]:
    """Return the splits that a file tells apart; empty where there is one set."""
    return read_json(path).splits
