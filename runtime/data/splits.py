"""The names of splits, and the files of a folder that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from zoedge.errors import DataError

Split = Literal["train", "valid", "test"]

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}


def split_file(folder: Path, split: str, suffixes: Iterable[str]) -> Path | None:
    """Return the one file of a folder that holds a split, None where there is none.

    Raises:
        DataError: several files could be meant.
    """
    found = [
        path
        for name in SPLIT_NAMES[split]
        for suffix in suffixes
        if (path := folder / f"{name}{suffix}").is_file()
    ]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{folder} has {names}, which could each be the {split} split: keep one of them")
    return found[0] if found else None
