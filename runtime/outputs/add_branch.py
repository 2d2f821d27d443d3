"""Adding a LoRA branch to the matrix beside which it lay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import BundleError
from zoedge.manifest import LoraBranch
from zoedge.tensor_file import Entry

from .floats import item_bytes, read_floats, write_floats

_BLOCK_ELEMENTS = 1 << 20  # of float64 work space

Tensors = Mapping[str, NDArray[np.generic]]


def delta(branch: LoraBranch, factors: Tensors) -> NDArray[np.float64]:
    """Return (alpha / rank) B A, [out, in]: what a branch adds to a matrix."""
    a, b = factors[branch.a].astype(np.float64), factors[branch.b].astype(np.float64)
    product: NDArray[np.float64] = (branch.alpha / branch.rank) * (b @ a)
    return product


def add_branch(path: Path, entry: Entry, branch: LoraBranch, factors: Tensors) -> None:
    """W += (alpha / rank) B A in float64, rounded once, in a file; W is [out, in], or [in, out] where transposed.

    Args:
        path: a safetensors file, changed in blocks of rows.
        entry: where its matrix lies, of any type in ``FLOATS``.
        branch: what is added.
        factors: A [rank, in] and B [out, rank] by their names.

    Raises:
        BundleError: the matrix has another shape.
    """
    a = factors[branch.a].astype(np.float64)
    b = factors[branch.b].astype(np.float64) * (branch.alpha / branch.rank)
    left, right = (a.T, b.T) if branch.transposed else (b, a)
    if entry.shape != (left.shape[0], right.shape[1]):
        raise BundleError(
            f"{branch.weight} is {list(entry.shape)} and its adapter {[left.shape[0], right.shape[1]]}: "
            "export the bundle again"
        )
    size = item_bytes(entry.dtype)
    rows = max(1, _BLOCK_ELEMENTS // right.shape[1])
    row_bytes = right.shape[1] * size
    with path.open("r+b") as file:
        for start in range(0, len(left), rows):
            block = left[start : start + rows] @ right
            file.seek(entry.offset + start * row_bytes)
            block += read_floats(file.read(block.size * size), entry.dtype).reshape(block.shape)
            file.seek(entry.offset + start * row_bytes)
            file.write(write_floats(block, entry.dtype))
