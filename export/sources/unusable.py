"""Outputs that a loss can't be computed from, refused with what would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoedge.errors import InputError

from .likeness import CLASSES, EACH, Likeness

Array = np.ndarray[Any, Any]

_CLOSE = 1e-3  # of the total


def refuse_steps(output: str, rows: Sequence[Array], sources: Mapping[str, Sequence[Array]]) -> None:
    """Refuse an output of two numbers: no small change of the weights would change a loss.

    Args:
        output: its name.
        rows: what it gave in some runs, the batch first.
        sources: what it is made from in the same runs.
    """
    numbers = np.unique(np.concatenate([array.ravel() for array in rows]))
    if len(numbers) != 2 or not np.ptp(np.concatenate(rows), axis=0).any():
        return
    smooth = (
        name
        for name, arrays in sources.items()
        if arrays[0].shape == rows[0].shape and len(np.unique(np.concatenate(arrays))) > len(numbers)
    )
    before = next(smooth, None)
    remedy = f"choose {before} with --output-name" if before else "export the file without them"
    raise InputError(
        f"the output {output} gave nothing but {numbers[0]:g} and {numbers[1]:g} for random inputs, steps that no "
        f"small change of the weights moves: {remedy}"
    )


def refuse_other(output: str, loss: str, seen: Likeness, rows: Sequence[Array], *, text: bool) -> None:
    """Refuse probabilities of the kind that the other loss takes, or of classes along another axis.

    Args:
        output: its name.
        loss: cross-entropy or bce-with-logits.
        seen: what it holds.
        rows: what it gave in some runs, the batch first.
        text: whether rows are texts.
    """
    shape = rows[0].shape
    if loss == "bce-with-logits" and seen.kind == CLASSES and len(shape) == 2:
        raise InputError(
            f"the output {output} holds probabilities of classes that exclude each other, rows that sum to "
            f"{seen.total:g}, and {loss} takes every class for itself: use --loss cross-entropy"
        )
    if loss == "cross-entropy" and seen.kind == EACH and (len(shape) != 2 or shape[-1] != 1):
        axis = _axis_of_classes(rows, seen.total)
        if axis is not None:
            raise InputError(
                f"the output {output} has {shape[axis]} probabilities that sum to {seen.total:g} along axis {axis}, "
                f"and {loss} takes classes along the last: export the file with an output [batch, classes]"
            )
        arrays = "--task classification with arrays named like its inputs, and " if text else ""
        raise InputError(
            f"the output {output} holds a probability for each class, whose rows don't sum to the same, and "
            f"{loss} takes classes that exclude each other: use {arrays}--loss bce-with-logits"
        )


def _axis_of_classes(rows: Sequence[Array], total: float) -> int | None:
    """Return another axis than the last along which values sum to the total."""
    values = np.concatenate(rows)
    for axis in range(1, values.ndim - 1):
        if values.shape[axis] > 1 and np.abs(values.sum(axis=axis) / total - 1).max() < _CLOSE:
            return axis
    return None
