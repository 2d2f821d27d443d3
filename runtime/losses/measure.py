"""Measuring: examples go in, the numbers that a run steers by come out. Knows the engine, not the method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from zoedge.errors import InputError
from zoedge.manifest import Manifest

from ..data.batches import MicroBatch, Result, Rows, batch_indices, micro_batches
from ..data.example import Example
from ..data.facts import TargetScale
from ..passes.probing import Forward, OneByOne, Probing
from .metrics import METRICS, ErrorMetrics
from .objectives import Criterion, Objective

EVAL_ROWS = 64  # rows of a forward pass where nothing is stepped
EVAL_TOKENS = 4096  # and tokens: bounds its memory
EVAL_BLOCK = 16 * EVAL_ROWS  # rows dealt into passes together: enough to bucket well, few enough to stack


def run_rows(
    engine: Forward,
    manifest: Manifest,
    examples: Sequence[Example],
    rows: Rows,
    outputs: Sequence[str] | None,
    *,
    max_rows: int | None = None,
) -> Iterator[Result]:
    """Run any number of rows, a pass at a time; rows of a result count from the start of ``rows``."""
    for start in range(0, len(rows), EVAL_BLOCK):
        part = rows[start : start + EVAL_BLOCK]
        for batch in eval_batches(manifest, examples, part, max_rows):
            placed = MicroBatch(batch.inputs, batch.targets, batch.rows + start)
            yield placed, engine.run(batch.given, outputs)


def eval_batches(
    manifest: Manifest, examples: Sequence[Example], rows: Rows, max_rows: int | None
) -> list[MicroBatch]:
    """Return the passes of a block of rows; ``max_rows`` is the user's limit, None for the usual."""
    most = min(EVAL_ROWS, max_rows or EVAL_ROWS)
    return micro_batches(examples, rows, manifest=manifest, max_rows=most, max_tokens=EVAL_TOKENS)


def score(
    engine: Forward,
    manifest: Manifest,
    examples: Sequence[Example],
    *,
    max_rows: int | None = None,
    scale: TargetScale | None = None,
) -> dict[str, float]:
    """Return the metrics of all examples at the engine's present weights; ``scale`` is that of the targets."""
    metrics = METRICS[manifest.loss]() if scale is None else ErrorMetrics(scale)
    rows = np.arange(len(examples))
    for batch, outputs in run_rows(engine, manifest, examples, rows, metrics.outputs, max_rows=max_rows):
        metrics.update(batch, outputs)
    result = metrics.result()
    return (
        result
        if scale is None
        else result | {n: scale.loss_factor * result[n] for n in ("loss", "loss_stderr")}
    )


class Measure:
    """What one run measures.

    Args:
        engine: runs the loss graph at the parameters' present point.
        manifest: the bundle's.
        train, valid: encoded examples; ``valid`` may be empty.
        objective: reduces a step's results to the number to minimise.
        seed: of the batches.
        batch_size: rows of a step.
        micro_batch_size: most rows of a pass, of those that evaluate too; None for no limit.
        dealt: rows of each cross-fitting fold; () when any row goes with any head.
        goal: what the user calls the objective; another than "loss" is evaluated, too. Afterwards it is a
            ``Criterion`` that tells its direction.
        probing: measures a batch at several points; a pass for each by default.
        scale: of an unscaled regression target; None for others.
    """

    def __init__(
        self,
        engine: Forward,
        manifest: Manifest,
        train: Sequence[Example],
        valid: Sequence[Example],
        objective: Objective,
        *,
        seed: int,
        batch_size: int,
        micro_batch_size: int | None,
        dealt: Sequence[Sequence[int]] = (),
        goal: str = "loss",
        probing: Probing | None = None,
        scale: TargetScale | None = None,
    ) -> None:
        self._scale = scale
        self._probing = probing or OneByOne(engine)
        self._engine, self._manifest, self._train, self._valid = engine, manifest, train, valid
        self._objective, self._seed = objective, seed
        self._batch_size, self._micro_batch_size = batch_size, micro_batch_size
        self._dealt = [np.array(rows, np.int64) for rows in dealt] or [np.arange(len(train))]
        self.goal = Criterion("objective", objective.maximised, goal) if goal != "loss" else Criterion()

    @property
    def criterion(self) -> Criterion:
        """What tells a better evaluation from a worse one: without validation rows, a solved head's loss."""
        return self.goal if len(self._valid) else Criterion()

    def check(self, *, finite: bool) -> None:
        """Take the objective of one batch, so that one that can't be used is found before anything is written.

        Args:
            finite: whether the number must be finite at the parameters' present values.

        Raises:
            InputError: it can't be used.
        """
        wanted = self._objective.outputs
        results = [(b, self._engine.run({**b.inputs, **b.targets}, wanted)) for b in self.batch(0)]
        value = self._objective(results)
        if finite and not math.isfinite(value):
            raise InputError(
                f"--objective {self.goal.name} returned {value} for the first batch: return a finite number"
            )

    def batch(self, step: int) -> list[MicroBatch]:
        """Return the passes of a step: folds take turns, each without replacement."""
        turn, fold = divmod(step, len(self._dealt))
        rows = self._dealt[fold]
        chosen = rows[batch_indices(self._seed, turn, len(rows), self._batch_size)]
        return micro_batches(self._train, chosen, manifest=self._manifest, max_rows=self._micro_batch_size)

    @property
    def together(self) -> int:
        """How many points a forward pass measures at most."""
        return self._probing.count

    def losses(self, batch: Sequence[MicroBatch], points: Iterable[object]) -> Iterator[float]:
        """Yield the objective of a step's rows at each point: one number over all its passes.

        Args:
            batch: the passes.
            points: each time it is advanced, the engine's buffers are at the next point.
        """
        for results in self._probing.results(batch, points, self._objective.outputs):
            yield self._objective(results)

    def forward(self, rows: Rows, outputs: Sequence[str]) -> list[Result]:
        """Run training rows."""
        most = self._micro_batch_size
        return list(run_rows(self._engine, self._manifest, self._train, rows, outputs, max_rows=most))

    def validation(self) -> dict[str, float]:
        """Return the metrics of the validation rows, of which there must be some."""
        most = self._micro_batch_size
        metrics = score(self._engine, self._manifest, self._valid, max_rows=most, scale=self._scale)
        if self.goal.metric == "objective":
            rows = np.arange(len(self._valid))
            wanted = self._objective.outputs
            results = run_rows(self._engine, self._manifest, self._valid, rows, wanted, max_rows=most)
            value = self._objective(list(results))
            metrics["objective"] = -value if self._objective.maximised else value
        return metrics
