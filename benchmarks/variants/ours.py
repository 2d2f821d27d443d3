"""zoedge's step, through the objects that `zoedge tune --method mezo` makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from variants.shapes import load_batch
from zoedge.bundle import Bundle
from zoedge.options import make
from zoedge.runtime.device import Cpu
from zoedge.runtime.job import make_job, read_rows


class Ours:
    """A two-point step as the tuner takes it, without its log: batch, two losses, update.

    Args:
        folder, data: the model's and the data's folders.
        bundle: which of the model's bundles.
        begin: give LoRA branches their directions, as a run does before its first step.
        options: of the run, beside its method and batch.
    """

    passes = "2 forwards"

    def __init__(
        self,
        folder: Path,
        data: Path,
        bundle: str,
        *,
        begin: bool = True,
        **options: Any,
    ) -> None:
        ids, labels = load_batch(data)
        asked = make({"method": "mezo", "batch_size": len(ids), "val_size": 0.0, "steps": 10_000, **options})
        opened = Bundle.open(folder / bundle)
        rows = read_rows(opened, Cpu(), str(data / "rows.jsonl"), asked)
        self._job = make_job(opened, Cpu(), *rows, begun=not begin)
        if self._job.initial:
            self._job.fold.apply(self._job.initial())
        (first,) = self._job.measure.batch(0)
        same = (first.inputs["input_ids"] == ids).all() and (first.targets["labels"] == labels).all()
        if not same:
            raise SystemExit("the batch of zoedge's first step is not the one that the others are given")

    def step(self) -> None:
        job = self._job
        batch = job.measure.batch(job.fold.step)
        settled = self._settled
        lr = job.plan.options.lr or 0.0
        job.fold.apply(job.fold.measure(lr, lambda points: job.measure.losses(batch, settled(points))))

    def loss(self) -> float:
        """Return the loss of the first batch at the present weights."""
        self._job.fold.rest()
        return next(self._job.measure.losses(self._job.measure.batch(0), range(1)))

    def _settled(self, points: Iterator[int]) -> Iterator[int]:
        for point in points:
            self._job.fold.parameters.settle()
            yield point
