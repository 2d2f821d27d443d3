"""Reading data: a file, a folder, a hub id or rows in memory go in, records come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast, overload

from zoedge.errors import DataError, near

from .delimited import read_csv, read_tsv
from .hub import is_hub_id, read_hub
from .in_memory import Data, InMemory, as_data
from .json_file import json_splits as splits_of_json
from .json_file import read_json
from .jsonl import read_jsonl
from .keys import KeyNames, rename
from .npz import npz_splits as splits_of_npz
from .npz import read_npz
from .parquet import read_parquet
from .record import Record
from .splits import SPLIT_NAMES, Split, split_file


class Format(NamedTuple):
    """How files of a format are read.

    Attributes:
        read: returns the records of a split; None where the file holds other splits only.
        splits_of: returns the splits that one file tells apart, empty where it holds one set of rows.
    """

    read: Callable[[Path, str], Sequence[Record] | None]
    splits_of: Callable[[Path], frozenset[str]] = lambda path: frozenset()


# a new format is one file and one line here
READERS: dict[str, Format] = {
    ".jsonl": Format(lambda path, split: read_jsonl(path)),
    ".csv": Format(lambda path, split: read_csv(path)),
    ".tsv": Format(lambda path, split: read_tsv(path)),
    ".npz": Format(read_npz, splits_of_npz),
    ".json": Format(lambda path, split: _of_json(read_json(path), split), splits_of_json),
    ".parquet": Format(lambda path, split: read_parquet(path)),
}

_ANY = KeyNames()
_LONGEST_SHOWN = 200


@overload
def read(
    data: Data | InMemory,
    split: Literal["train", "test"] = "train",
    keys: KeyNames = ...,
    *,
    labelled: bool = True,
) -> Sequence[Record]: ...
@overload
def read(
    data: Data | InMemory, split: Literal["valid"], keys: KeyNames = ..., *, labelled: bool = True
) -> Sequence[Record] | None: ...
def read(
    data: Data | InMemory, split: Split = "train", keys: KeyNames = _ANY, *, labelled: bool = True
) -> Sequence[Record] | None:
    """Return the records of a split.

    Args:
        data: a file of one of ``READERS``; a folder with ``train``, ``valid`` (also ``validation``, ``val``,
            ``dev``) and ``test`` files of these formats; a hub id, "owner/name" or "owner/name:config"; or rows
            as ``in_memory.as_data`` takes them. A single file or set of rows that doesn't tell splits apart is
            both the train and the test split.
        split: which rows.
        keys: what the file calls the fields, where a task can't know.
        labelled: False for prediction: a label that ``keys`` names may then be absent.

    Returns:
        The records; None where the data has no ``valid`` split, so that the caller holds rows out.

    Raises:
        DataError: no such data, a malformed or empty file, or no such split.
        MissingPackageError: a hub id without the package ``datasets``.
    """
    given = as_data(data)
    records = given.read(split) if isinstance(given, InMemory) else _read_path(given, split)
    if records is None:
        if split == "valid":
            return None
        raise DataError(f"{_shown(given)} has no {split} split: {_expected(given, split)}")
    if len(records) == 0:
        raise DataError(f"{_shown(given)} has no rows in its {split} split: give data with at least one row")
    return rename(records, keys, labelled=labelled)


def _of_json(found: InMemory, split: str) -> Sequence[Record] | None:
    return found.read(cast("Split", split)) if found.told else found.read("train")


def _read_path(text: str, split: Split) -> Sequence[Record] | None:
    try:
        return _read(text, split)
    except OSError as error:
        raise DataError(f"{_shown(text)} can't be read: {error.strerror}") from error


def _read(text: str, split: Split) -> Sequence[Record] | None:
    path = Path(text)
    if path.is_dir():
        file = split_file(path, split, READERS)
        return READERS[file.suffix].read(file, split) if file else None
    if path.is_file():
        suffix = path.suffix.lower()
        known = READERS.get(suffix)
        if known is None:
            raise DataError(
                f"{path} has the unknown format {path.suffix!r}: use {', '.join(READERS)} or a folder of them"
            )
        if split == "valid" and not known.splits_of(path):
            return None
        return known.read(path, split)
    if path.suffix.lower() in READERS or not is_hub_id(text):
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{_shown(text)} does not exist{near(path.name, siblings) or ': check the path'}")
    return read_hub(text, split)


def _shown(data: str | InMemory) -> str:
    """Return what was given, for a message of one line."""
    text = str(data)
    if len(text) <= _LONGEST_SHOWN and text.isprintable():
        return text
    return f"{text[:_LONGEST_SHOWN]!r}..."


def _expected(data: str | InMemory, split: Split) -> str:
    if isinstance(data, InMemory):
        return f"give a dict with {split!r} (it tells {', '.join(sorted(data.splits))} apart)"
    path = Path(data)
    if path.is_dir():
        present = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
        return f"name a file {split}{', '.join(READERS)} (the folder holds {present})"
    if path.is_file():
        told = ", ".join(sorted(READERS[path.suffix.lower()].splits_of(path)))
        return f"name its arrays {split}_... (it tells {told} apart)"
    return f"looked for {', '.join(SPLIT_NAMES[split])}"
