"""Metrics of a data set, added up batch by batch: exact for unequal batches.

Each accumulator takes micro-batches with the loss graph's outputs and returns Python floats by the metrics'
usual names. Counts are integers and sums are float64, so neither the order nor the size of the batches
matters beyond the last bits of ``loss`` and ``mse``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoedge.manifest import Manifest

from ..data.batches import MicroBatch
from ..data.example import Array
from ..data.facts import TargetScale
from ..data.stack import IGNORED


class Metrics(Protocol):
    """What adds up a task's metrics."""

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of ``result`` besides ``loss`` and ``loss_stderr``.

        Higher is better, except for perplexity, mse and mae.
        """

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the loss graph that ``update`` reads."""

    def update(self, batch: MicroBatch, outputs: Mapping[str, Array]) -> None:
        """Add one micro-batch; its padding rows are left out."""

    def result(self) -> dict[str, float]:
        """Return the metrics over everything added so far; NaN where there was nothing."""


class _Loss:
    """The weighted mean of the examples' losses."""

    def __init__(self) -> None:
        self._total, self._weight = 0.0, 0.0
        self._rows, self._squares = 0, np.zeros(3)  # sums of weight^2 times loss^2, loss, 1

    def update(self, batch: MicroBatch, outputs: Mapping[str, Array]) -> None:
        loss = outputs["loss"][: batch.valid].astype(np.float64)
        weight = outputs["weight"][: batch.valid].astype(np.float64)
        counted = weight > 0  # an example without label tokens has no loss
        self._total += float((loss * weight)[counted].sum())
        self._weight += float(weight[counted].sum())
        self._rows += int(counted.sum())
        square, own = np.square(weight[counted]), loss[counted]
        self._squares += [(square * own * own).sum(), (square * own).sum(), square.sum()]

    def result(self) -> float:
        return _ratio(self._total, self._weight)

    def error(self) -> dict[str, float]:
        """Return ``loss_stderr``, the standard error of the mean as examples spread; NaN below two."""
        return {"loss_stderr": self._stderr()}

    def _stderr(self) -> float:
        mean = self.result()
        if self._rows < 2 or not math.isfinite(mean):
            return math.nan
        twice, once, weights = self._squares.tolist()
        spread = max(0.0, twice - 2.0 * mean * once + mean * mean * weights)
        return math.sqrt(spread * self._rows / (self._rows - 1)) / self._weight


class ClassMetrics:
    """``accuracy`` and ``f1`` of one class per example: logits [n, classes], labels [n].

    ``f1`` is that of the second class where there are two, else the unweighted mean over the classes that
    occur among labels or predictions (scikit-learn's ``binary`` and ``macro``). A class without hits has 0.
    """

    names = ("accuracy", "f1")
    outputs = ("loss", "weight", "logits")

    def __init__(self) -> None:
        self._loss = _Loss()
        self._counts: NDArray[np.int64] | None = None  # [label, prediction]

    def update(self, batch: MicroBatch, outputs: Mapping[str, Array]) -> None:
        """Add one micro-batch."""
        self._loss.update(batch, outputs)
        logits = outputs["logits"][: batch.valid]
        if self._counts is None:
            self._counts = np.zeros((logits.shape[-1],) * 2, np.int64)
        labels = batch.targets["labels"][: batch.valid].reshape(-1)
        np.add.at(self._counts, (labels, logits.argmax(axis=-1).reshape(-1)), 1)

    def result(self) -> dict[str, float]:
        """Return ``loss``, ``accuracy``, ``f1`` and ``loss_stderr``."""
        counts = self._counts if self._counts is not None else np.zeros((0, 0), np.int64)
        hits, known, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        both = known + predicted
        scores = [2 * int(h) / int(b) if b else math.nan for h, b in zip(hits, both, strict=True)]
        accuracy = _ratio(int(hits.sum()), int(counts.sum()))
        return {"loss": self._loss.result(), "accuracy": accuracy, "f1": _f1(scores)} | self._loss.error()


def f1_meaning(manifest: Manifest) -> str:
    """Return which class ``f1`` is that of, as a sentence; "" where there are not two."""
    logits = next((port.shape for port in manifest.outputs if port.name == "logits"), ())
    classes = len(manifest.labels) or (logits[-1] if logits else 0)
    if METRICS[manifest.loss] is not ClassMetrics or classes != 2:
        return ""
    name = manifest.labels[1] if manifest.labels else "1"
    return f"f1 is that of the second class, {name}"


def _f1(scores: list[float]) -> float:
    if len(scores) == 2:
        return 0.0 if math.isnan(scores[1]) else scores[1]
    occurring = [score for score in scores if not math.isnan(score)]
    return _ratio(math.fsum(occurring), len(occurring))


class MultiLabelMetrics:
    """``accuracy`` and ``f1`` of several yes-or-no labels per example: logits and labels [n, k].

    A label is predicted where its logit is above 0. ``accuracy`` counts single labels; ``f1`` is the mean of
    the labels' F1 scores, and that of the only label where there is one; a label without any hit has 0.
    """

    names = ("accuracy", "f1")
    outputs = ("loss", "weight", "logits")

    def __init__(self) -> None:
        self._loss = _Loss()
        self._right = self._all = 0
        self._counts: NDArray[np.int64] | None = None  # [hits, labels + predictions] per label

    def update(self, batch: MicroBatch, outputs: Mapping[str, Array]) -> None:
        """Add one micro-batch."""
        self._loss.update(batch, outputs)
        predicted = outputs["logits"][: batch.valid].reshape(batch.valid, -1) > 0
        known = batch.targets["labels"][: batch.valid].reshape(batch.valid, -1) > 0.5
        self._right += int((predicted == known).sum())
        self._all += known.size
        counts = np.stack([(predicted & known).sum(axis=0), predicted.sum(axis=0) + known.sum(axis=0)])
        self._counts = counts if self._counts is None else self._counts + counts

    def result(self) -> dict[str, float]:
        """Return ``loss``, ``accuracy``, ``f1`` and ``loss_stderr``."""
        counts = self._counts if self._counts is not None else np.zeros((2, 0), np.int64)
        scores = [2 * int(hits) / int(both) if both else 0.0 for hits, both in counts.T]
        f1 = _ratio(math.fsum(scores), len(scores))
        shares = {"accuracy": _ratio(self._right, self._all), "f1": f1}
        return {"loss": self._loss.result()} | shares | self._loss.error()


class TokenMetrics:
    """``perplexity`` = exp(mean loss of a label token), token ``accuracy``: predictions and labels [n, p]."""

    names = ("perplexity", "accuracy")
    outputs = ("loss", "weight", "predictions")

    def __init__(self) -> None:
        self._loss = _Loss()
        self._right = self._all = 0

    def update(self, batch: MicroBatch, outputs: Mapping[str, Array]) -> None:
        """Add one micro-batch."""
        self._loss.update(batch, outputs)
        labels = batch.targets["labels"][: batch.valid]
        counted = labels != IGNORED
        self._right += int((outputs["predictions"][: batch.valid] == labels)[counted].sum())
        self._all += int(counted.sum())

    def result(self) -> dict[str, float]:
        """Return ``loss``, ``perplexity``, ``accuracy`` and ``loss_stderr``."""
        loss = self._loss.result()
        perplexity = math.exp(loss) if loss < 700 else loss if math.isnan(loss) else math.inf
        shares = {"perplexity": perplexity, "accuracy": _ratio(self._right, self._all)}
        return {"loss": loss} | shares | self._loss.error()


class ErrorMetrics:
    """``mse``, ``mae``: the means over all elements of (logits - labels)^2 and |logits - labels|; ``r2``.

    ``r2`` is the mean over the outputs of 1 - sum of squared errors / sum of squares about the labels' mean,
    as scikit-learn's: NaN below two rows; of labels that are all the same 1 where all are hit, else 0.

    Args:
        scale: of the logits and the labels; the metrics are in the user's units.
    """

    names = ("mse", "mae", "r2")
    outputs = ("loss", "weight", "logits")

    def __init__(self, scale: TargetScale | None = None) -> None:
        self._loss, self._scale = _Loss(), scale
        self._squares, self._absolute, self._all = 0.0, 0.0, 0
        self._spread: _Spread | None = None

    def update(self, batch: MicroBatch, outputs: Mapping[str, Array]) -> None:
        """Add one micro-batch."""
        self._loss.update(batch, outputs)
        known = self._in_units(batch.targets["labels"][: batch.valid])
        error = self._in_units(outputs["logits"][: batch.valid]) - known
        self._squares += float(np.square(error).sum())
        self._absolute += float(np.abs(error).sum())
        self._all += error.size
        spread = _Spread.of(known, np.square(error).sum(axis=0))
        self._spread = spread if self._spread is None else self._spread.with_(spread)

    def _in_units(self, values: Array) -> NDArray[np.float64]:
        """Return values as float64 [rows, outputs]."""
        restored = values.astype(np.float64) if self._scale is None else self._scale.restored(values)
        return np.asarray(restored.reshape(len(values), -1))

    def result(self) -> dict[str, float]:
        """Return ``loss``, ``mse``, ``mae``, ``r2`` and ``loss_stderr``."""
        return {
            "loss": self._loss.result(),
            "mse": _ratio(self._squares, self._all),
            "mae": _ratio(self._absolute, self._all),
            "r2": self._spread.r2() if self._spread is not None else math.nan,
        } | self._loss.error()


class _Spread(NamedTuple):
    """Rows, their labels' mean and squares about it, and squared errors, each but the first [outputs]."""

    rows: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    errors: NDArray[np.float64]

    @classmethod
    def of(cls, known: NDArray[np.float64], errors: NDArray[np.float64]) -> _Spread:
        mean = known.mean(axis=0)
        return cls(len(known), mean, np.square(known - mean).sum(axis=0), errors)

    def with_(self, other: _Spread) -> _Spread:
        """Return both together, without subtracting large squares from each other."""
        rows = self.rows + other.rows
        gap = other.mean - self.mean
        squares = self.squares + other.squares + gap**2 * (self.rows * other.rows / rows)
        return _Spread(rows, self.mean + gap * (other.rows / rows), squares, self.errors + other.errors)

    def r2(self) -> float:
        if self.rows < 2:
            return math.nan
        varied = self.squares > 0
        share = self.errors[varied] / self.squares[varied]
        scores = np.where(self.errors == 0, 1.0, 0.0)
        scores[varied] = 1.0 - share
        return float(scores.mean())


# by Manifest.loss
METRICS: dict[str, Callable[[], Metrics]] = {
    "cross-entropy": ClassMetrics,
    "bce-with-logits": MultiLabelMetrics,
    "token-cross-entropy": TokenMetrics,
    "mse": ErrorMetrics,
}


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
