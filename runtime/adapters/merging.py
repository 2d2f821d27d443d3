"""Adding a branch to the matrix beside which it lay, in a file and in blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import BundleError
from zoedge.manifest import Branch
from zoedge.tensor_file import Entry

from .base import Tensors, adapter_of
from .floats import item_bytes, read_floats, write_floats

_BLOCK_ELEMENTS = 1 << 20  # of float64 work space


def merged(branch: Branch, factors: Tensors, matrix: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return a whole matrix [out, in] with a branch added."""
    every = slice(None)
    return adapter_of(branch).added(branch, factors, matrix.astype(np.float64), every, every)


def add_branch(path: Path, entry: Entry, branch: Branch, factors: Tensors) -> None:
    """Add a branch in float64, rounded once, to a matrix [out, in], or [in, out] where transposed.

    Args:
        path: a safetensors file, changed in blocks of rows.
        entry: where its matrix lies, of any type in ``FLOATS``.
        branch: what is added.
        factors: its tensors by their names.

    Raises:
        BundleError: the matrix has another shape.
    """
    shape = branch.shape[::-1] if branch.transposed else branch.shape
    if entry.shape != shape:
        raise BundleError(
            f"{branch.weight} is {list(entry.shape)} and its adapter {list(shape)}: export the bundle again"
        )
    adapter, size, width = adapter_of(branch), item_bytes(entry.dtype), shape[1]
    count = max(1, _BLOCK_ELEMENTS // width)
    with path.open("r+b") as file:
        for start in range(0, shape[0], count):
            rows = slice(start, min(start + count, shape[0]))
            place, elements = entry.offset + start * width * size, (rows.stop - start) * width
            file.seek(place)
            block = read_floats(file.read(elements * size), entry.dtype).astype(np.float64).reshape(-1, width)
            if branch.transposed:
                block = adapter.added(branch, factors, block.T, slice(None), rows).T
            else:
                block = adapter.added(branch, factors, block, rows, slice(None))
            file.seek(place)
            file.write(write_floats(np.ascontiguousarray(block), entry.dtype))
