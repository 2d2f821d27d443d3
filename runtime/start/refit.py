"""Refitting a head during a run: features from forward passes, the convex problem, an assign record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoedge.manifest import Head

from ..data.batches import Result, Rows, gather
from ..records import Assign
from .convex import Float64
from .probe import Fitted, fit_probe

PROBE_ROWS = 4096  # rows a head is fitted on at most: forwards cost more than rows gain beyond

Forward = Callable[[Rows, Sequence[str]], list[Result]]  # rows of the training data, outputs wanted


class Refitted(NamedTuple):
    """Heads by slot, and what they score on the rows each has not seen."""

    heads: dict[int, dict[str, NDArray[np.float32]]]
    metrics: dict[str, float]

    def record(self, step: int) -> Assign:
        """Return the journal's record of these heads."""
        return Assign(step, self.heads, self.metrics)


def fitted_rows(rows: int, folds: int) -> int:
    """Return how many of the training rows a cross-fitted head is fitted and judged on."""
    return sum(min(len(range(fold, rows, folds)), _share(folds)) for fold in range(folds))


def _share(folds: int) -> int:
    return -(-PROBE_ROWS // folds)


class HeadRefit:
    """Solves a new head in closed form.

    Args:
        head: which tensors it consists of and which output feeds it.
        loss: the bundle's loss, a key of ``convex.LOSSES``.
        classes: width of the logits.
        dealt: the training rows of each fold.
        forward: runs training rows at theta.
    """

    def __init__(
        self, head: Head, loss: str, classes: int, dealt: Sequence[Sequence[int]], forward: Forward
    ) -> None:
        self._head, self._loss, self._classes, self._forward = head, loss, classes, forward
        kept = [list(rows[: _share(len(dealt))]) for rows in dealt]
        self._rows: Rows = np.array([row for rows in kept for row in rows], np.int64)
        ends = np.cumsum([0, *map(len, kept)])
        self._dealt = [range(start, end) for start, end in pairwise(ends.tolist())]

    def fit(self) -> Refitted:
        """Run the rows and solve; the parameters must rest at theta."""
        outputs, targets = gather(self._forward(self._rows, (self._head.features,)))
        features, labels = outputs[self._head.features], targets["labels"]
        fitted = fit_probe(self._loss, features, labels, self._classes, self._dealt)
        heads = {slot: self._tensors(w) for slot, w in fitted.heads.items()}
        return Refitted(heads, self._metrics(fitted, features, labels))

    def _tensors(self, w: Float64) -> dict[str, NDArray[np.float32]]:
        weight = w[:, :-1].astype(np.float32)
        tensors = {self._head.weight: weight.T if self._head.transposed else weight}
        if self._head.bias is not None:
            tensors[self._head.bias] = w[:, -1].astype(np.float32)
        return tensors

    def _metrics(
        self, fitted: Fitted, features: NDArray[np.generic], labels: NDArray[np.generic]
    ) -> dict[str, float]:
        metrics = {"loss": fitted.loss}
        if np.issubdtype(labels.dtype, np.integer):
            hits = sum(
                int((fitted.scores(features[list(rows)], slot).argmax(axis=1) == labels[list(rows)]).sum())
                for slot, rows in enumerate(self._dealt)
            )
            metrics["accuracy"] = hits / len(labels)
        return metrics
