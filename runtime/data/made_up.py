"""Rows that stand in for data: the shapes of a bundle's ports, filled with anything that runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoedge.errors import InputError
from zoedge.manifest import Manifest, Port

from .dataset import Dataset
from .example import Array, Example


def made_up_rows(manifest: Manifest, count: int, sequence_length: int | None, folder: Path) -> Dataset:
    """Return rows of one length: ``sequence_length``, or the bundle's longest.

    Every position is a label where labels belong to positions, which is the most that a row can cost.

    Raises:
        InputError: the bundle doesn't say how long a row is, or takes none that long.
    """
    length = _length(manifest, sequence_length, folder)
    ports = (*manifest.inputs, *manifest.targets)
    values = [{port.name: _array(manifest, port, row, length) for port in ports} for row in range(count)]
    targets = {port.name for port in manifest.targets}
    examples = [
        Example(
            {name: array for name, array in row.items() if name not in targets},
            {name: array for name, array in row.items() if name in targets},
            length if manifest.text is not None else 0,
        )
        for row in values
    ]
    lengths = np.array([example.length for example in examples], np.int64)
    return Dataset(examples, lengths, tuple(b"made up" for _ in examples))


def _length(manifest: Manifest, asked: int | None, folder: Path) -> int:
    open_axes = [dim for port in manifest.inputs for dim in port.shape[1:] if isinstance(dim, str)]
    if manifest.text is not None:
        longest = manifest.text.max_length
        if asked is not None and asked > longest:
            raise InputError(
                f"--sequence-length {asked} is more than the {longest} that {folder} was exported for: use at most that"
            )
        return asked or longest
    if asked is None and open_axes:
        raise InputError(
            f"{folder} leaves the size of its axis {open_axes[0]!r} open: give --data or --sequence-length"
        )
    return asked or 1


def _array(manifest: Manifest, port: Port, row: int, length: int) -> Array:
    shape = tuple(dim if isinstance(dim, int) else length for dim in port.shape[1:])
    if not np.issubdtype(np.dtype(port.dtype), np.integer):
        return np.random.default_rng(row).random(shape).astype(port.dtype)
    if port.name == "label_positions":
        return np.arange(shape[0], dtype=port.dtype)
    if port.name == "labels":
        return np.full(shape, row % max(1, len(manifest.labels)), port.dtype)
    if port.name == "token_type_ids":
        return np.zeros(shape, port.dtype)
    if port.name == "input_ids" and manifest.text is not None and manifest.text.pad_id == 1:
        return np.zeros(shape, port.dtype)
    return np.ones(shape, port.dtype)
