"""The names of splits, and the files of a folder that hold them."""

from __future__ import annotations

import re
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
_ALIAS = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}
_NAMES = "|".join(_ALIAS)
_PREFIX = re.compile(rf"(?P<split>{_NAMES})_(?P<name>.+)")  # train_images
_SUFFIX = re.compile(rf"(?P<name>[xyXY])_(?P<split>{_NAMES})")  # x_train, as Keras names them


def split_and_name(array: str) -> tuple[str, str] | None:
    """Return the split and the field of an array called like ``train_images`` or ``x_train``; None otherwise."""
    match = _PREFIX.fullmatch(array) or _SUFFIX.fullmatch(array)
    return (_ALIAS[match["split"]], match["name"]) if match else None


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
