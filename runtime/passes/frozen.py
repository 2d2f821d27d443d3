"""Frozen tensors where they lie: read-only maps that sessions use without a copy of their own.

onnxruntime folds and prepacks constant matrices into memory of its own, and maps the rest of the file as
private writable pages. Both count against a limit of memory; a shared read-only map does not: its pages are
dropped and read again as the system needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.tensor_file import Entry, read_entries, view

from ..device import Device

Array = NDArray[np.generic]

_NUMPY_LACKS = ("BF16", "F8_E4M3", "F8_E5M2")  # their views would have another type than the graph's


def frozen_where(bundle: Bundle, device: Device, prepack: str) -> dict[str, Array] | None:
    """Return the frozen tensors where sessions are to use them in place; None where they may copy them.

    Args:
        bundle: what is run.
        device: where.
        prepack: the option.
    """
    if device.takes_frozen:
        return map_stored(bundle)
    return map_frozen(bundle) if prepack == "no" else None


def map_frozen(bundle: Bundle) -> dict[str, Array]:
    """Return name -> read-only view of every frozen parameter that NumPy has a type for."""
    files = {p.name: p.file for p in bundle.manifest.parameters if not p.trainable}
    paths = [bundle.path(file) for file in set(files.values())]
    return _views(paths, lambda name, file: files.get(name) == file)


def map_stored(bundle: Bundle, *, trained: bool = False) -> dict[str, Array]:
    """Return the same of everything stored, scales and other tensors of the graphs among it.

    Args:
        bundle: whose files are read.
        trained: whether trainable tensors are wanted, too, as they were exported.
    """
    left_out = set() if trained else {p.name for p in bundle.manifest.trainable}
    files = tuple(sorted({p.file for p in bundle.manifest.parameters}))
    stored = _stored(bundle.folder, bundle.digest, files)
    return {name: array for name, array in stored.items() if name not in left_out}


@lru_cache(maxsize=1)
def _stored(folder: Path, digest: str, files: tuple[str, ...]) -> dict[str, Array]:
    """Return the same arrays again for the same bundle, by which a device knows what it holds already."""
    return _views([folder / file for file in files], lambda name, file: True)


def _views(paths: Collection[Path], wanted: Callable[[str, str], bool]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for path in sorted(paths):
        mapping = np.memmap(path, dtype=np.uint8, mode="r")
        for name, entry in read_entries(path).items():
            if wanted(name, path.name) and _usable(entry):
                found[name] = view(mapping, entry)
    return found


def _usable(entry: Entry) -> bool:
    return entry.dtype not in _NUMPY_LACKS and entry.size > 0
