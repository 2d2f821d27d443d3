"""The convex problems behind a linear head, solved in float64 on the host.

Each is a loss over linear scores X W^T with a ridge on W; the last column of X is the constant 1 (the bias)
and isn't penalised:

    minimise  mean_i loss(x_i W^T, y_i) + (l2 / 2) ||W||^2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Product = Callable[[Float64], Float64]

_NEWTON_STEPS = 50
_CG_STEPS = 250


class ConvexLoss(NamedTuple):
    """A per-row loss of the scores.

    Attributes:
        value: (scores [n, c], targets [n, c]) -> [n].
        gradient: the same -> d value / d scores [n, c].
        curvature: scores -> a function from V [n, c] to the Hessian's product with V, row by row [n, c].
    """

    value: Callable[[Float64, Float64], Float64]
    gradient: Callable[[Float64, Float64], Float64]
    curvature: Callable[[Float64], Product]


def softmax(scores: Float64) -> Float64:
    """Return the row-wise softmax."""
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _log_sum_exp(scores: Float64) -> Float64:
    top = scores.max(axis=1)
    return np.asarray(top + np.log(np.exp(scores - top[:, None]).sum(axis=1)))


def _softmax_curvature(scores: Float64) -> Product:
    p = softmax(scores)

    def product(v: Float64) -> Float64:
        pv = p * v
        return np.asarray(pv - p * pv.sum(axis=1, keepdims=True))

    return product


def _own_curvature(d: Float64) -> Product:
    """Return the product of a loss whose scores don't mix."""
    return lambda v: d * v


def _sigmoid(scores: Float64) -> Float64:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))


LOSSES: dict[str, ConvexLoss] = {
    # targets are one-hot rows
    "cross-entropy": ConvexLoss(
        value=lambda s, y: _log_sum_exp(s) - (s * y).sum(axis=1),
        gradient=lambda s, y: softmax(s) - y,
        curvature=_softmax_curvature,
    ),
    # mean over the columns, as the loss graph's
    "bce-with-logits": ConvexLoss(
        value=lambda s, y: np.asarray((np.logaddexp(0.0, s) - s * y).mean(axis=1)),
        gradient=lambda s, y: (_sigmoid(s) - y) / s.shape[1],
        curvature=lambda s: _own_curvature(_sigmoid(s) * _sigmoid(-s) / s.shape[1]),
    ),
    "mse": ConvexLoss(
        value=lambda s, y: np.asarray(((s - y) ** 2).mean(axis=1)),
        gradient=lambda s, y: 2.0 * (s - y) / s.shape[1],
        curvature=lambda s: _own_curvature(np.full_like(s, 2.0 / s.shape[1])),
    ),
}


def with_bias(features: NDArray[np.generic]) -> Float64:
    """Return the features [n, d] in float64 with a column of ones behind them, [n, d + 1]."""
    return np.hstack([features.astype(np.float64), np.ones((len(features), 1))])


def solve(
    loss: ConvexLoss,
    x: Float64,
    y: Float64,
    l2: float,
    start: Float64 | None = None,
    *,
    tolerance: float = 1e-8,
) -> Float64:
    """Return the minimiser W [c, d + 1] by Newton steps whose systems conjugate gradients solve.

    The gradients are preconditioned by the Hessian's diagonal as if curvature were the same for all rows:
    the nearer the columns of x are to uncorrelated, the fewer products they take.

    Args:
        loss: of ``LOSSES``.
        x: [n, d + 1], last column 1.
        y: [n, c].
        l2: ridge, above 0 so that the minimiser is unique.
        start: where to begin; zeros by default.
        tolerance: norm of the gradient at which to stop.
    """
    n = len(x)
    w = np.zeros((y.shape[1], x.shape[1])) if start is None else start.copy()
    ridge = np.full(x.shape[1], l2)
    ridge[-1] = 0.0

    def objective(w: Float64) -> float:
        return float(loss.value(x @ w.T, y).mean() + 0.5 * (ridge * w**2).sum())

    squares = np.square(x).mean(axis=0)
    value = objective(w)
    for _ in range(_NEWTON_STEPS):
        scores = x @ w.T
        gradient = loss.gradient(scores, y).T @ x / n + ridge * w
        size = float(np.linalg.norm(gradient))
        if size < tolerance:
            break
        curvature = loss.curvature(scores)

        def hessian(v: Float64, curvature: Product = curvature) -> Float64:
            return np.asarray(curvature(x @ v.T).T @ x / n + ridge * v)

        diagonal = _mean_curvature(curvature, scores)[:, None] * squares + ridge
        step = _conjugate_gradients(hessian, -gradient, diagonal, min(0.25, math.sqrt(size)))
        slope = float((gradient * step).sum())
        length = 1.0
        while (trial := objective(w + length * step)) > value + 1e-4 * length * slope and length > 1e-10:
            length *= 0.5
        if trial >= value:
            break  # at the limit of float64
        w, value = w + length * step, trial
    return w


def _mean_curvature(curvature: Product, scores: Float64) -> Float64:
    """Return the mean over rows of each score's own second derivative, [c]; kept above 0 for far-off starts."""
    columns = np.eye(scores.shape[1])
    own = [curvature(np.broadcast_to(e, scores.shape))[:, k].mean() for k, e in enumerate(columns)]
    return np.maximum(own, 1e-6)


def _conjugate_gradients(product: Product, b: Float64, diagonal: Float64, tolerance: float) -> Float64:
    """Return x with product(x) = b up to ``tolerance`` times the norm of b, preconditioned by a diagonal."""
    x, r = np.zeros_like(b), b.copy()
    z = r / diagonal
    p, rz = z.copy(), float((r * z).sum())
    target = tolerance**2 * float((b * b).sum())
    for _ in range(_CG_STEPS):
        if float((r * r).sum()) <= target:
            break
        q = product(p)
        curvature = float((p * q).sum())
        if curvature <= 0.0:
            break
        x += (rz / curvature) * p
        r -= (rz / curvature) * q
        z = r / diagonal
        rz, previous = float((r * z).sum()), rz
        p = z + (rz / previous) * p
    return x
