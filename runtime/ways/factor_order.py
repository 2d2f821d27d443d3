"""On which side of their products trained matrices are: a matter of how many rows a pass has."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from zoedge.errors import InputError
from zoedge.manifest import FEW_ROWS_FILE

from .situation import Situation

Asked = Literal["auto", "yes", "no"]

# From the left, 8 to 64 rows took 0.5 to 0.9 of the time and 128 as long (single products, AVX-512; 2, 3 and 96 were
# not measured); one row is a vector, for which nothing is packed either way. No timing decides: the order changes how
# sums are rounded, and the same command is to give the same losses again.
FEWEST, MOST = 2, 96


def with_order(situation: Situation, asked: Asked) -> Situation:
    """Return the situation with the loss graph that is faster for its rows, or the one asked for.

    Args:
        situation: with the ordinary graph.
        asked: whether trained matrices are to be on the left; auto for by the rows of a step's largest pass.

    Raises:
        InputError: the graph that was asked for isn't in the bundle.
    """
    there = FEW_ROWS_FILE in situation.bundle.manifest.files
    if asked == "yes" and not there:
        raise InputError(
            f"--few-rows yes needs {FEW_ROWS_FILE}, and {situation.bundle.folder} has none: leave it out"
        )
    few = there and situation.rows is not None and FEWEST <= situation.rows <= MOST
    return replace(situation, few_rows=few if asked == "auto" else asked == "yes")
