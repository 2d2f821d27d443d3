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
from ..device import FINE, Grain
from ..losses.metrics import METRICS, ErrorMetrics
from ..losses.objectives import Criterion, Objective
from ..passes.bounds import EVAL_ROWS, USUAL, Bounds
from ..passes.probing import Forward, OneByOne, Probing

EVAL_BLOCK = 16 * EVAL_ROWS  # rows dealt into passes together: enough to bucket well, few enough to stack


def run_rows(
    engine: Forward,
    manifest: Manifest,
    examples: Sequence[Example],
    rows: Rows,
    outputs: Sequence[str] | None,
    *,
    bounds: Bounds = USUAL,
) -> Iterator[Result]:
    """Run any number of rows, a pass at a time; rows of a result count from the start of ``rows``."""
    for start in range(0, len(rows), EVAL_BLOCK):
        part = rows[start : start + EVAL_BLOCK]
        for batch in eval_batches(manifest, examples, part, bounds, engine.grain):
            placed = MicroBatch(batch.inputs, batch.targets, batch.rows + start)
            yield placed, engine.run(batch.given, outputs)


def eval_batches(
    manifest: Manifest,
    examples: Sequence[Example],
    rows: Rows,
    bounds: Bounds = USUAL,
    grain: Grain = FINE,
) -> list[MicroBatch]:
    """Return the passes of a block of rows."""
    return micro_batches(
        examples, rows, manifest=manifest, max_rows=bounds.rows, max_tokens=bounds.tokens, grain=grain
    )


def score(
    engine: Forward,
    manifest: Manifest,
    examples: Sequence[Example],
    *,
    bounds: Bounds = USUAL,
    scale: TargetScale | None = None,
) -> dict[str, float]:
    """Return the metrics of all examples at the engine's present weights; ``scale`` is that of the targets."""
    metrics = METRICS[manifest.loss]() if scale is None else ErrorMetrics(scale)
    rows = np.arange(len(examples))
    for batch, outputs in run_rows(engine, manifest, examples, rows, metrics.outputs, bounds=bounds):
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
        micro_batch_size: most rows of a step's pass; None for no limit.
        bounds: of the passes that evaluate and solve heads.
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
        bounds: Bounds = USUAL,
        dealt: Sequence[Sequence[int]] = (),
        goal: str = "loss",
        probing: Probing | None = None,
        scale: TargetScale | None = None,
    ) -> None:
        self._scale, self._bounds = scale, bounds
        self._probing = probing or OneByOne(engine)
        self._engine, self._manifest, self._train, self._valid = engine, manifest, train, valid
        self._objective, self._seed = objective, seed
        self._batch_size, self._micro_batch_size = batch_size, micro_batch_size
        self._dealt_for, self._passes = -1, list[MicroBatch]()  # the step whose batch is at hand
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
        if self._dealt_for != step:
            self._passes, self._dealt_for = self._deal(step), step
        return self._passes

    def _deal(self, step: int) -> list[MicroBatch]:
        turn, fold = divmod(step, len(self._dealt))
        rows = self._dealt[fold]
        chosen = rows[batch_indices(self._seed, turn, len(rows), self._batch_size)]
        most, grain = self._micro_batch_size, self._engine.grain
        return micro_batches(self._train, chosen, manifest=self._manifest, max_rows=most, grain=grain)

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
        following = self._dealt_for + 1
        for results in self._probing.results(
            batch, points, self._objective.outputs, lambda: self.batch(following)
        ):
            yield self._objective(results)

    def forward(self, rows: Rows, outputs: Sequence[str]) -> list[Result]:
        """Run training rows."""
        bounds = self._bounds
        return list(run_rows(self._engine, self._manifest, self._train, rows, outputs, bounds=bounds))

    def validation(self) -> dict[str, float]:
        """Return the metrics of the validation rows, of which there must be some."""
        bounds = self._bounds
        metrics = score(self._engine, self._manifest, self._valid, bounds=bounds, scale=self._scale)
        if self.goal.metric == "objective":
            rows = np.arange(len(self._valid))
            wanted = self._objective.outputs
            results = run_rows(self._engine, self._manifest, self._valid, rows, wanted, bounds=bounds)
            value = self._objective(list(results))
            metrics["objective"] = -value if self._objective.maximised else value
        return metrics
