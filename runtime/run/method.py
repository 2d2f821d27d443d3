"""A run's method: made from its options, told answers, and followed through a journal without parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from zoedge.methods import Method, Point, State, Told, find_recipe
from zoedge.options import TuneOptions, own

from ..records import Record, Step

_LARGEST_MOVE = 1e30  # beyond it, sums of float32 overflow; NaN fails the comparison too


def method_of(options: TuneOptions) -> Method:
    """Return the method that the options of a run name."""
    return find_recipe(options.method).build(own(options))


def more(method: Method, state: State, answers: Sequence[float], lr: float, eps: float) -> tuple[Point, ...]:
    """Return the points that a step asks for next; () where it has all, or will be skipped."""
    if not all(math.isfinite(answer) for answer in answers):
        return ()
    points = method.ask_more(state, answers, lr=lr, eps=eps)
    return points if all(map(_within, points)) else ()


def _within(moves: Point) -> bool:
    return all(abs(move.scale) < _LARGEST_MOVE for move in moves)


def tell(method: Method, state: State, record: Step, eps: float) -> Told | None:
    """Return what the method makes of a step; None where it is skipped, as its answers or update aren't finite."""
    if not all(math.isfinite(answer) for answer in record.answers):
        return None
    told = method.tell(state, record.answers, lr=record.lr, eps=eps)
    return told if _within(told.update.moves) else None


def skipped(records: Iterable[Record], options: TuneOptions) -> int:
    """Return how many steps of a journal were skipped."""
    method = method_of(options)
    state, count = method.init(), 0
    for record in records:
        if isinstance(record, Step):
            told = tell(method, state, record, options.eps or 0.0)
            state, count = (told.state, count) if told else (method.skipped(state), count + 1)
    return count
