"""The most that passes hold which measure and move nothing."""

from __future__ import annotations

from typing import NamedTuple

EVAL_ROWS = 64  # rows of a forward pass where nothing is stepped
EVAL_TOKENS = 4096  # and tokens: bounds its memory
_FEWEST_ROWS, _FEWEST_TOKENS = 8, 512  # below them a pass costs more for its nodes than for its rows


class Bounds(NamedTuple):
    """The most rows and padded tokens of a pass that measures."""

    rows: int = EVAL_ROWS
    tokens: int = EVAL_TOKENS


USUAL = Bounds()


def bounds_beside(step_rows: int, step_tokens: int | None, max_rows: int | None = None) -> Bounds:
    """Return the bounds of the passes that evaluate a run: they hold no more memory than those of its steps.

    Args:
        step_rows: of the largest pass of a step.
        step_tokens: its padded tokens; None where rows have none.
        max_rows: the user's limit.
    """
    if step_tokens is None:
        rows = min(EVAL_ROWS, max(_FEWEST_ROWS, step_rows))
        return Bounds(min(rows, max_rows or rows))
    return Bounds(min(EVAL_ROWS, max_rows or EVAL_ROWS), min(EVAL_TOKENS, max(_FEWEST_TOKENS, step_tokens)))
