"""The head's convex problems against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from zoedge.runtime.start.convex import LOSSES, solve, with_bias

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 20)).astype(np.float32)
SCORES = X @ RNG.standard_normal((20, 4)) + RNG.standard_normal((300, 4))


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_cross_entropy_is_multinomial_logistic_regression(c):
    labels = SCORES.argmax(axis=1)
    w = solve(LOSSES["cross-entropy"], with_bias(X), np.eye(4)[labels], 1.0 / (c * len(X)))
    reference = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, solver="newton-cg").fit(
        X.astype(np.float64), labels
    )
    centred = w - w.mean(axis=0)
    np.testing.assert_allclose(
        centred[:, :-1], reference.coef_, atol=2e-3 * max(1.0, np.abs(reference.coef_).max())
    )
    np.testing.assert_allclose(centred[:, -1], reference.intercept_, atol=2e-3)


def test_bce_is_one_logistic_regression_per_column():
    labels = (SCORES[:, :2] > 0).astype(np.float64)
    w = solve(LOSSES["bce-with-logits"], with_bias(X), labels, 1.0 / (len(X) * 2))
    for k in range(2):
        reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(X, labels[:, k])
        np.testing.assert_allclose(w[k, :-1], reference.coef_[0], atol=3e-3)


def test_mse_is_ridge_regression():
    y = SCORES[:, :3]
    w = solve(LOSSES["mse"], with_bias(X), y, 2.0 * 5.0 / (len(X) * 3))
    reference = Ridge(alpha=5.0).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(w[:, :-1], reference.coef_, atol=1e-5)
    np.testing.assert_allclose(w[:, -1], reference.intercept_, atol=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradient_and_curvature_against_finite_differences(name):
    loss = LOSSES[name]
    scores, v = RNG.standard_normal((5, 3)), RNG.standard_normal((5, 3))
    y = np.eye(3)[[0, 1, 2, 0, 1]]
    h = 1e-5
    slope = (loss.value(scores + h * v, y) - loss.value(scores - h * v, y)) / (2 * h)
    np.testing.assert_allclose(slope, (loss.gradient(scores, y) * v).sum(axis=1), atol=1e-8)
    curve = (loss.gradient(scores + h * v, y) - loss.gradient(scores - h * v, y)) / (2 * h)
    np.testing.assert_allclose(curve, loss.curvature(scores)(v), atol=1e-8)
