"""Data sets of the Hugging Face hub, through the optional package ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zoedge.errors import DataError, MissingPackageError

from .coded import class_names
from .in_memory import RowRecords
from .record import Record
from .splits import SPLIT_NAMES

_ID = re.compile(
    r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?"
)  # "owner/name" or "owner/name:config"


def is_hub_id(text: str) -> bool:
    """Tell whether a string has the form of a hub id."""
    return _ID.fullmatch(text) is not None and not text.startswith(".")


def read_hub(name: str, split: str) -> Sequence[Record] | None:
    """Return a split of a hub data set, "owner/name" or "owner/name:config"; None where it lacks the split.

    Raises:
        MissingPackageError: ``datasets`` isn't installed.
        DataError: the data set can't be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        purpose = f"{name} is no file or folder here, and reading it from the Hugging Face hub"
        raise MissingPackageError("datasets", "data", purpose) from error
    except Exception as error:  # an installed version that doesn't fit others
        raise DataError(
            f"{name} is no file or folder here, and the package datasets, which would look for it on the hub, can't be "
            f"used ({type(error).__name__}: {error}): check the path, or update datasets"
        ) from error
    match = _ID.fullmatch(name)
    if match is None:
        raise DataError(f"{name} is no data set id: write owner/name or owner/name:config")
    try:
        found = datasets.load_dataset(match["name"], match["config"])
    except Exception as error:  # datasets raises many kinds: network, authentication, unknown id, bad files
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{name} is no file or folder here and can't be loaded from the hub "
            f"({type(error).__name__}: {reason}): check the name and the connection, or give a local file"
        ) from error
    for alias in SPLIT_NAMES[split]:
        if alias in found:
            return RowRecords(found[alias], f"{name}/{alias}", class_names(found[alias]))
    return None
