"""Reading data: a file, a folder or a hub id goes in, records come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, overload

from zoedge.errors import DataError, near

from .delimited import read_csv, read_tsv
from .hub import is_hub_id, read_hub
from .jsonl import read_jsonl
from .keys import KeyNames, rename
from .npz import read_npz, splits_of
from .record import Record
from .splits import SPLIT_NAMES, Split, split_file

Reader = Callable[[Path, str], Sequence[Record] | None]

# a new format is one file and one line here; None means that the file holds other splits only
READERS: dict[str, Reader] = {
    ".jsonl": lambda path, split: read_jsonl(path),
    ".csv": lambda path, split: read_csv(path),
    ".tsv": lambda path, split: read_tsv(path),
    ".npz": read_npz,
}

_ANY = KeyNames()


@overload
def read(
    path: str | Path,
    split: Literal["train", "test"] = "train",
    keys: KeyNames = ...,
    *,
    labelled: bool = True,
) -> Sequence[Record]: ...
@overload
def read(
    path: str | Path, split: Literal["valid"], keys: KeyNames = ..., *, labelled: bool = True
) -> Sequence[Record] | None: ...
def read(
    path: str | Path, split: Split = "train", keys: KeyNames = _ANY, *, labelled: bool = True
) -> Sequence[Record] | None:
    """Return the records of a split.

    Args:
        path: a ``.jsonl``, ``.csv``, ``.tsv`` or ``.npz`` file; a folder with ``train``, ``valid`` (also
            ``validation``, ``val``, ``dev``) and ``test`` files of these formats; or a hub id,
            "owner/name" or "owner/name:config". A single file that doesn't tell splits apart is both the
            train and the test split.
        split: which rows.
        keys: what the file calls the fields, where a task can't know.
        labelled: False for prediction: a label that ``keys`` names may then be absent.

    Returns:
        The records; None where the data has no ``valid`` split, so that the caller holds rows out.

    Raises:
        DataError: no such data, a malformed or empty file, or no such split.
        MissingPackageError: a hub id without the package ``datasets``.
    """
    records = _read(str(path), split)
    if records is None:
        if split == "valid":
            return None
        raise DataError(f"{path} has no {split} split: {_expected(Path(path), split)}")
    if len(records) == 0:
        raise DataError(f"{path} has no rows in its {split} split: give data with at least one row")
    return rename(records, keys, labelled=labelled)


def _read(text: str, split: Split) -> Sequence[Record] | None:
    path = Path(text)
    if path.is_dir():
        file = split_file(path, split, READERS)
        return READERS[file.suffix](file, split) if file else None
    if path.is_file():
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(
                f"{path} has the unknown format {path.suffix!r}: use {', '.join(READERS)} or a folder of them"
            )
        if split == "valid" and not (path.suffix.lower() == ".npz" and splits_of(path)):
            return None
        return reader(path, split)
    if path.suffix.lower() in READERS or not is_hub_id(text):
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path} does not exist{near(path.name, siblings) or ': check the path'}")
    return read_hub(text, split)


def _expected(path: Path, split: Split) -> str:
    if path.is_dir():
        present = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
        return f"name a file {split}.jsonl, .csv, .tsv or .npz (the folder holds {present})"
    if path.is_file():
        return f"name its arrays {split}_... (it tells {', '.join(sorted(splits_of(path)))} apart)"
    return f"looked for {', '.join(SPLIT_NAMES[split])}"
