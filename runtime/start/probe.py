"""A linear head solved in closed form on features from forward passes, cross-fitted over the rows.

A head fitted on the rows that are then tuned on has nothing left to teach the layers below it. So the rows
are dealt into folds; the head that a fold is tuned with is fitted on the other folds only, and a last one,
fitted on all rows, is what evaluation and the tuned model use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..run.fold import FULL
from .convex import LOSSES, ConvexLoss, Float64, solve, with_bias

# candidates for l2, strong to weak, for features whose mean variance is 1
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 1e-3, 3e-4, 1e-4)
_MOST_TURNED = 1024  # rows or features; the time to find axes grows with the cube
_TOLERANCE = 1e-5  # of the gradient; accuracy beyond it changes no prediction


class Fitted(NamedTuple):
    """Heads by slot, each [classes, width + 1] with the bias last; ``loss`` is the cross-fitted mean loss."""

    heads: dict[int, Float64]
    l2: float
    loss: float

    def scores(self, features: NDArray[np.generic], slot: int) -> Float64:
        """Return one head's scores [rows, classes]."""
        return np.asarray(with_bias(features) @ self.heads[slot].T)


def deal(rows: Sequence[int], folds: int) -> list[list[int]]:
    """Return the rows of each fold: every ``folds``-th of a shuffled order."""
    return [list(rows[k::folds]) for k in range(folds)]


def fit_probe(
    loss_name: str,
    features: NDArray[np.generic],
    targets: NDArray[np.generic],
    classes: int,
    dealt: Sequence[Sequence[int]],
) -> Fitted:
    """Fit one head per fold on the rows outside it, and one on all rows.

    The ridge is the one with the least loss on the rows left out, the same for all heads.

    Args:
        loss_name: a key of ``LOSSES``.
        features: [rows, width].
        targets: class indices [rows], or scores [rows] or [rows, classes].
        classes: width of the scores.
        dealt: the rows of each fold.
    """
    loss, scale = LOSSES[loss_name], Scale.of(features)
    x, y = with_bias(scale.normalised(features)), _as_scores(targets, classes)
    best: tuple[float, float, dict[int, Float64]] | None = None
    heads: dict[int, Float64] = {}
    for l2 in STRENGTHS:
        heads = {
            k: solve(loss, *_outside(x, y, rows), l2, heads.get(k), tolerance=_TOLERANCE)
            for k, rows in enumerate(dealt)
        }
        value = _left_out(loss, x, y, heads, dealt)
        if best is None or value < best[0]:
            best = value, l2, heads
        elif value > 1.1 * best[0]:
            break  # weaker ridges only get worse from here
    if best is None:  # STRENGTHS isn't empty
        raise AssertionError
    value, l2, chosen = best
    chosen[FULL] = solve(loss, x, y, l2, chosen[0], tolerance=_TOLERANCE)
    return Fitted({slot: scale.folded(w) for slot, w in chosen.items()}, l2, value)


class Scale(NamedTuple):
    """Features are centred, divided by one number and turned to their principal axes.

    One number, so that a ridge means the same for every encoder, and not one per feature: a feature that
    hardly varies would only bring its noise. The turn leaves the problem as it is and makes it quick to solve.
    """

    mean: Float64
    deviation: float
    axes: Float64 | None  # [d, min(n, d)], orthonormal columns; None where finding them would take too long

    @classmethod
    def of(cls, features: NDArray[np.generic]) -> Scale:
        """Return the scale that gives features [n, d] mean 0, mean variance 1 and uncorrelated columns."""
        wide = features.astype(np.float64)
        centred = wide - wide.mean(axis=0)
        rows, width = centred.shape
        if min(rows, width) > _MOST_TURNED:
            axes = None
        elif width <= rows:
            axes = np.linalg.eigh(centred.T @ centred)[1]
        else:  # the solution lies in the span of the rows
            axes = np.linalg.svd(centred, full_matrices=False)[2].T
        return cls(wide.mean(axis=0), float(np.sqrt(wide.var(axis=0).mean())) or 1.0, axes)

    def normalised(self, features: NDArray[np.generic]) -> Float64:
        """Return the scaled features."""
        centred = (features.astype(np.float64) - self.mean) / self.deviation
        return centred if self.axes is None else np.asarray(centred @ self.axes)

    def folded(self, w: Float64) -> Float64:
        """Return the head for unscaled features that does what ``w`` does for scaled ones."""
        weight = w[:, :-1] if self.axes is None else w[:, :-1] @ self.axes.T
        weight = weight / self.deviation
        return np.hstack([weight, (w[:, -1] - weight @ self.mean)[:, None]])


def _outside(x: Float64, y: Float64, rows: Sequence[int]) -> tuple[Float64, Float64]:
    keep = np.ones(len(x), bool)
    keep[list(rows)] = False
    return (x[keep], y[keep]) if keep.any() else (x, y)


def _left_out(
    loss: ConvexLoss, x: Float64, y: Float64, heads: dict[int, Float64], dealt: Sequence[Sequence[int]]
) -> float:
    total = sum(
        float(loss.value(x[list(rows)] @ heads[k].T, y[list(rows)]).sum())
        for k, rows in enumerate(dealt)
        if rows
    )
    return total / len(x)


def _as_scores(targets: NDArray[np.generic], classes: int) -> Float64:
    if np.issubdtype(targets.dtype, np.integer):
        return np.eye(classes)[targets.reshape(-1).astype(np.int64)]
    return targets.reshape(len(targets), -1).astype(np.float64)
