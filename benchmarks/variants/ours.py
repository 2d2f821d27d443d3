"""zoedge's step, through the objects that `zoedge tune --method mezo` makes."""

from __future__ import annotations

from pathlib import Path

from variants.shapes import load_batch
from zoedge.bundle import Bundle
from zoedge.options import TuneOptions
from zoedge.runtime.batches import MicroBatch
from zoedge.runtime.job import prepare


class Ours:
    """A two-point step as the tuner takes it, without its log: batch, two losses, update.

    Args:
        folder, data: the model's and the data's folders.
        bundle: which of the model's bundles.
        begin: give LoRA branches their directions, as a run does before its first step.
    """

    passes = "2 forwards"

    def __init__(self, folder: Path, data: Path, bundle: str, *, begin: bool = True) -> None:
        ids, labels = load_batch(data)
        options = TuneOptions(method="mezo", batch_size=len(ids), val_size=0.0, steps=10_000)
        self._job = prepare(Bundle.open(folder / bundle), str(data / "rows.jsonl"), options)
        if begin and self._job.initial:
            self._job.fold.apply(self._job.initial())
        (first,) = self._job.measure.batch(0)
        same = (first.inputs["input_ids"] == ids).all() and (first.targets["labels"] == labels).all()
        if not same:
            raise SystemExit("the batch of zoedge's first step is not the one that the others are given")

    def step(self) -> None:
        job = self._job
        batch = job.measure.batch(job.fold.step)
        job.fold.apply(job.fold.measure(job.plan.options.lr or 0.0, lambda index: self._loss(batch)))

    def loss(self) -> float:
        """Return the loss of the first batch at the present weights."""
        self._job.fold.rest()
        return self._loss(self._job.measure.batch(0))

    def _loss(self, batch: list[MicroBatch]) -> float:
        self._job.fold.parameters.settle()
        return self._job.measure.loss(batch)
