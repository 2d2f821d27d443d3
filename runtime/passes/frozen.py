"""Frozen tensors where they lie: read-only maps that sessions use without a copy of their own.

onnxruntime folds and prepacks constant matrices into memory of its own, and maps the rest of the file as
private writable pages. Both count against a limit of memory; a shared read-only map does not: its pages are
dropped and read again as the system needs.
"""

from __future__ import annotations

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
    return map_frozen(bundle) if device.takes_frozen or prepack == "no" else None


def map_frozen(bundle: Bundle) -> dict[str, Array]:
    """Return name -> read-only view of every frozen tensor that NumPy has a type for."""
    frozen = {p.name: p.file for p in bundle.manifest.parameters if not p.trainable}
    found: dict[str, Array] = {}
    for file in sorted(set(frozen.values())):
        path = bundle.path(file)
        mapping = np.memmap(path, dtype=np.uint8, mode="r")
        for name, entry in read_entries(path).items():
            if frozen.get(name) == file and _usable(entry):
                found[name] = view(mapping, entry)
    return found


def _usable(entry: Entry) -> bool:
    return entry.dtype not in _NUMPY_LACKS and entry.size > 0
