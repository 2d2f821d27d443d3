"""Stacking the arrays of examples into the arrays of a graph, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoedge.errors import DataError
from zoedge.manifest import Port, Text
from zoedge.names import LABELS, POSITIONS

from ..device import FINE, Grain
from .buckets import padded
from .example import Array, Arrays

IGNORED = -100  # the label of a padded position


def stack(rows: Sequence[Arrays], ports: Sequence[Port], text: Text | None, grain: Grain = FINE) -> Arrays:
    """Return one contiguous array [rows, ...] per port, of the port's dtype.

    Axes of a fixed size are padded to it. Dynamic axes are padded to the longest row: rounded up as
    ``buckets.padded`` does for text, labels and their positions by a grain of their own. Padding is the
    tokenizer's in ``input_ids``, -100 in ``labels``, else 0.

    Raises:
        DataError: a row is larger than a fixed axis of the graph.
    """
    return {port.name: _stack([row[port.name] for row in rows], port, text, grain) for port in ports}


def _stack(arrays: Sequence[Array], port: Port, text: Text | None, grain: Grain) -> Array:
    sizes = []
    own = grain._replace(tokens=grain.positions) if port.name in (LABELS, POSITIONS) else grain
    for axis, dim in enumerate(port.shape[1:]):
        size = max(array.shape[axis] for array in arrays)
        if isinstance(dim, int) and size > dim:
            raise DataError(
                f"a row of {size} does not fit {port.name}, which the graph fixes at {dim}: shorten it"
            )
        longest = padded(size, text.max_length, own) if text else size
        sizes.append(dim if isinstance(dim, int) else longest)
    stacked = np.full((len(arrays), *sizes), _fill(port, text), dtype=port.dtype)
    for row, array in enumerate(arrays):
        stacked[row : row + 1][(slice(None), *map(slice, array.shape))] = array
    return stacked


def _fill(port: Port, text: Text | None) -> int:
    if port.name == "input_ids" and text is not None:
        return text.pad_id
    return IGNORED if port.name == "labels" and np.issubdtype(np.dtype(port.dtype), np.integer) else 0
