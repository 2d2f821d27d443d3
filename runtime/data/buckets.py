"""Dealing the rows of a batch into parts that waste little padding: a pure function of the lengths."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..device import FINE, Grain


class Limits(NamedTuple):
    """What a part may hold at most; ``fixed`` is the graph's own batch size, to which parts are filled up.

    ``grain`` is what the device wants shapes to be multiples of.
    """

    rows: int | None = None
    tokens: int | None = None
    fixed: int | None = None
    grain: Grain = FINE

    def rows_of(self, width: int) -> int | None:
        """Return the most rows of a part that is ``width`` tokens wide, None for any number."""
        if self.fixed:
            return self.fixed
        by_tokens = max(1, self.tokens // width) if self.tokens and width else None
        given = [limit for limit in (self.rows, by_tokens) if limit]
        return min(given) if given else None

    def filled(self, rows: int) -> int:
        """Return how many rows a pass has that holds some."""
        return self.fixed or -(-rows // self.grain.rows) * self.grain.rows


def padded(length: int, longest: int | None = None, grain: Grain = FINE) -> int:
    """Return a length rounded up to the device's multiple, but not beyond ``longest``."""
    rounded = -(-length // grain.tokens) * grain.tokens
    return rounded if longest is None else max(length, min(rounded, longest))


def split_by_length(lengths: Sequence[int], limits: Limits, longest: int | None = None) -> list[list[int]]:
    """Split rows into parts of neighbouring lengths with the least total cost.

    Rows are sorted by length; a part is a run of that order and costs rows * padded length of its longest +
    the grain's overhead for each forward pass that the limits make of it. Dynamic programming over the
    distinct padded lengths finds the cheapest split; parts above a limit are then cut into equal pieces.

    Args:
        lengths: tokens of each row.
        limits: what a part may hold.
        longest: the model's maximum, beyond which nothing is rounded up.

    Returns:
        Parts of row positions, shortest rows first; each position occurs once.
    """
    order = sorted(
        range(len(lengths)), key=lambda row: lengths[row]
    )  # stable: equal lengths keep their order
    widths = [padded(lengths[row], longest, limits.grain) for row in order]
    ends = [i for i in range(1, len(order) + 1) if i == len(order) or widths[i] != widths[i - 1]]
    bounds = [0, *ends]
    best: list[tuple[int, int]] = [(0, 0)]  # for each bound: cost up to it, index of the bound before
    for k in range(1, len(bounds)):
        width = widths[bounds[k] - 1]
        best.append(min((best[j][0] + _cost(bounds[k] - bounds[j], width, limits), j) for j in range(k)))
    cuts = [len(bounds) - 1]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    parts: list[list[int]] = []
    for start, end in pairwise(bounds[k] for k in reversed(cuts)):
        parts += _pieces(order[start:end], limits, widths[end - 1])
    return parts


def split_by_shape(shapes: Sequence[Hashable], limits: Limits) -> list[list[int]]:
    """Split rows into parts of one shape each, within the limits; rows of a shape keep their order."""
    groups: dict[Hashable, list[int]] = {}
    for row, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(row)
    return [piece for rows in groups.values() for piece in _pieces(rows, limits, 0)]


def _cost(rows: int, width: int, limits: Limits) -> int:
    most = limits.rows_of(width)
    passes = -(-rows // most) if most else 1
    return (passes * limits.fixed if limits.fixed else rows) * width + passes * limits.grain.overhead


def _pieces(rows: list[int], limits: Limits, width: int) -> list[list[int]]:
    most = limits.rows_of(width) or len(rows)
    count = -(-len(rows) // most)
    # a fixed batch size is filled piece by piece; otherwise pieces are of near-equal size
    step = (
        [i * most for i in range(count)] if limits.fixed else [i * len(rows) // count for i in range(count)]
    )
    return [rows[start:end] for start, end in pairwise([*step, len(rows)])]
