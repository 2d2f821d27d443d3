"""The losses again, in float64 NumPy: what the nodes of the loss graph are checked against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_IGNORED = -100


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return (loss, weight), float64 [batch], for logits [batch, classes] and labels int64 [batch]."""
    loss = -_log_softmax(logits)[np.arange(len(labels)), labels]
    return loss, np.ones(len(loss))


def token_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The same for logits [batch, positions, vocabulary]: mean over labels other than -100, and their number."""
    log_p = _log_softmax(logits)
    losses, weights = [], []
    for row, row_labels in zip(log_p, labels, strict=True):
        terms = [-row[i, label] for i, label in enumerate(row_labels) if label != _IGNORED]
        losses.append(float(np.mean(terms)) if terms else 0.0)
        weights.append(float(len(terms)))
    return np.array(losses), np.array(weights)


def mse(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Mean squared difference of each example."""
    squares = (logits.astype(np.float64) - labels) ** 2
    return _mean(squares), np.ones(len(squares))


def bce_with_logits(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Mean binary cross-entropy of each example: -t log(p) - (1 - t) log(1 - p), p = 1 / (1 + exp(-x))."""
    x = logits.astype(np.float64)
    terms = labels * np.logaddexp(0.0, -x) + (1.0 - labels) * np.logaddexp(0.0, x)
    return _mean(terms), np.ones(len(terms))


NUMPY_LOSSES: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "cross-entropy": cross_entropy,
    "token-cross-entropy": token_cross_entropy,
    "mse": mse,
    "bce-with-logits": bce_with_logits,
}


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalised: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def _mean(terms: Array) -> Array:
    means: Array = terms.reshape(len(terms), -1).mean(axis=1)
    return means
