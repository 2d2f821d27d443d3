"""What the numbers of an output show: probabilities of classes, one for each class, or anything else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CLASSES, EACH, UNKNOWN = "classes", "each", "unknown"
TOTALS = (1.0, 100.0)
BOUNDED = frozenset((
    "Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh", "Softsign", "Erf", "Exp",
))  # fmt: skip
_LOGARITHMS = frozenset(("Log", "LogSoftmax", "Softplus"))
_ROUNDING = 1e-4  # beyond the ends of a range, of its largest value
_CLOSE, _ROUNDED_CLOSE = 2e-3, 0.1  # of the total; the latter where 8 bits hold a softmax
_VARIES = 1e-3  # of the total: less is the same row again
_SMALLEST = float(np.finfo(np.float32).tiny)
_STEPWISE = frozenset(("Sigmoid", "HardSigmoid", "Tanh", "Erf"))  # onnxruntime's are exact to 1e-8 or so
_GRID = 2.0**-25  # what (1 + tanh) / 2 comes in multiples of; 1 - p, and float16, in those of 2^-24
ROUNDED = 2.0**-23  # below it such a probability is rounding
_SMALL, _FEW, _OFF_GRID = 2.0**-8, 8, 0.05  # values far finer than the grid in float32; how many of them tell


@dataclass(frozen=True)
class Likeness:
    """What an output was seen to hold.

    Attributes:
        kind: ``CLASSES`` where rows sum to the total, ``EACH`` where every value is a probability, ``UNKNOWN``
            where every row is the same one, which might be either of those or logits.
        total: what stands for certainty: 1, or 100 of percentages.
        least: the smallest share of the total that isn't rounding.
    """

    kind: str
    total: float
    least: float


def likeness(outputs: Sequence[Array], operators: Collection[str], *, log: bool = False) -> Likeness | None:
    """Return what outputs are the probabilities of; None for anything else.

    Args:
        outputs: [batch, ..., classes] or [batch], of several runs; equal in the last axis.
        operators: between the last layer and them, as ``behind`` tells them.
        log: whether they are exponentials of what the file gives.
    """
    rows = np.concatenate([_rows(array) for array in outputs])
    if not rows.size or rows.min() < -_ROUNDING * rows.max():
        return None
    total = _total(rows.sum(axis=1), operators)
    varies = bool(np.ptp(rows, axis=0).max() > _VARIES * rows.max())
    bounded = not BOUNDED.isdisjoint(operators) or (log and "Softplus" in operators)  # -softplus(-z)
    if rows.shape[1] > 1 and total is not None:
        kind = CLASSES if varies or bounded else UNKNOWN
        return Likeness(kind, total, _least(rows / total, operators))
    if not bounded or not rows.max() > 0:
        return None
    most = float(rows.max())  # amplified inputs bring percentages to their end
    certain = next((t for t in TOTALS if (t == 1.0 or most > 0.99 * t) and most <= t * (1 + 1e-3)), None)
    return (
        None
        if certain is None
        else Likeness(EACH if varies or "Sigmoid" in operators else UNKNOWN, certain, ROUNDED)
    )


def without_logarithm(outputs: Sequence[Array], operators: Collection[str]) -> tuple[list[Array], bool]:
    """Return outputs in float64 and whether they were logarithms of what is returned, by their sign and operators."""
    exact = [array.astype(np.float64) for array in outputs]
    log = not _LOGARITHMS.isdisjoint(operators) and all((array <= _ROUNDING).all() for array in exact)
    return [np.exp(array) if log else array for array in exact], log


def _rows(array: Array) -> Array:
    width = array.shape[-1] if array.ndim > 1 else 1
    return array.astype(np.float64).reshape(-1, width) if width else np.empty((0, 1))


def _total(sums: Array, operators: Collection[str]) -> float | None:
    """Return what all rows sum to; None where sums differ, or are one that logits might have, too."""
    softmax = "Softmax" in operators
    total, close = float(np.median(sums)), _ROUNDED_CLOSE if softmax else _CLOSE
    if not total > 0 or (np.abs(sums / total - 1) > close).any():
        return None
    return next((known for known in TOTALS if abs(total / known - 1) < close), total if softmax else None)


def _least(shares: Array, operators: Collection[str]) -> float:
    """Tell what float32 rounds to steps: sigmoids, 1 - p, and what went through float16."""
    small = (shares < _SMALL) & (shares > 0)
    steps = shares / _GRID
    stepwise = (small.sum(axis=0) >= _FEW) & ((np.abs(steps - np.rint(steps)) < _OFF_GRID) | ~small).all(
        axis=0
    )
    return ROUNDED if stepwise.any() or not _STEPWISE.isdisjoint(operators) else _SMALLEST
