"""What evaluations have said so far: which was the best, and whether to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..losses.objectives import Criterion
from ..records import Eval, Record


@dataclass
class Evaluations:
    """Taken in record by record, so that a resumed run knows what the interrupted one knew.

    Attributes:
        criterion: what tells better from worse.
        best: its best value so far.
        best_step: the step it was seen at; None before any evaluation.
        best_metrics: all metrics of that evaluation.
        since_best: evaluations since then.
        last_step: the step of the last evaluation; None before any.
    """

    criterion: Criterion
    best: float = math.nan
    best_step: int | None = None
    since_best: int = 0
    best_metrics: dict[str, float] | None = None
    last_step: int | None = None

    def improves(self, record: Eval) -> bool:
        """Whether a record, not taken in yet, is the best."""
        value = record.metrics[self.criterion.metric]
        return math.isfinite(value) and (math.isnan(self.best) or self.criterion.better(value, self.best))

    def take(self, record: Record) -> None:
        """Take in a record; only evaluations count."""
        if not isinstance(record, Eval):
            return
        if self.improves(record):
            value = record.metrics[self.criterion.metric]
            self.best, self.best_step, self.since_best = value, record.step, 0
            self.best_metrics = record.metrics
        else:
            self.since_best += 1
        self.last_step = record.step
