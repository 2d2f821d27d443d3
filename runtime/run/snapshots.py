"""Snapshots bound the time of a resume: the fold's state and how much of the journal it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoedge.errors import BundleError
from zoedge.tensor_file import map_tensors

from ..records import Record
from .fold import Fold
from .run_folder import save_tensors

_RECORDS = "records"


def save(path: Path, fold: Fold, records: int) -> None:
    """Write the fold's state after the first ``records`` records of its journal."""
    save_tensors(path, fold.snapshot() | {_RECORDS: np.array(records)})


def catch_up(path: Path, fold: Fold, records: list[Record]) -> int:
    """Bring a new fold to the end of its journal, from the snapshot where there is a usable one.

    Returns:
        How many records the snapshot saved replaying.
    """
    done = 0
    if path.is_file():
        try:
            arrays = map_tensors(path)
        except BundleError:
            arrays = {}  # the journal alone is enough
        if _RECORDS in arrays:
            done = int(arrays[_RECORDS])
            if done > len(records):
                raise BundleError(
                    f"the journal beside {path.parent} is damaged after {len(records)} of at least {done} records: "
                    f"restore journal.zoj, or remove {path} to go on from the damage"
                )
            fold.restore(arrays)
    fold.replay(records[done:])
    return done
