"""On which side of their products trained matrices are: chosen by a timing, as it depends on rows and machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from zoedge.errors import InputError
from zoedge.manifest import FEW_ROWS_FILE

from .situation import Situation

Asked = Literal["auto", "yes", "no"]

NOTE = "trained matrices are multiplied from the left: faster here for few rows"
_MOST_ROWS = 256  # of a pass: packing a matrix is little beside a product with more, and nothing is timed
_FASTER = 0.95


def with_order(situation: Situation, asked: Asked, seconds: Callable[[Situation], float]) -> Situation:
    """Return the situation with the loss graph that is faster, or the one asked for.

    Args:
        situation: with the ordinary graph.
        asked: whether trained matrices are to be on the left; auto to measure.
        seconds: times a step's passes.

    Raises:
        InputError: the graph that was asked for isn't in the bundle.
    """
    there = FEW_ROWS_FILE in situation.bundle.manifest.files
    if asked == "yes" and not there:
        raise InputError(
            f"--few-rows yes needs a bundle that trains whole matrices, and {situation.bundle.folder} has no "
            f"{FEW_ROWS_FILE}: leave it out"
        )
    left = replace(situation, few_rows=True)
    if asked == "yes":
        return left
    if asked == "no" or not there or situation.rows > _MOST_ROWS:
        return situation
    return left if seconds(left) < _FASTER * seconds(situation) else situation
