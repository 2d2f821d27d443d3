"""zoedge's step, through the objects that ``zoedge tune`` makes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from variants.shapes import load_batch

from gpu.variant import Place, Variant
from zoedge.bundle import Bundle
from zoedge.options import make
from zoedge.runtime.device import open_device
from zoedge.runtime.job import make_job, read_rows
from zoedge.runtime.noise.reference import NOISE_VERSION
from zoedge.runtime.records import Header
from zoedge.runtime.run.journal import Journal
from zoedge.runtime.run.steps import MeasuredHere


class Ours(Variant):
    """Steps as the tuner's loop takes them: batch, moves, passes, losses, method, the journal; and its passes alone.

    Args:
        bundle: which of the bundles.
        precision: of its passes.
        options: of the run, beside its batch.
    """

    def __init__(self, place: Place, bundle: str, precision: str, **options: Any) -> None:
        super().__init__(place)
        # a processor computes in float32 alone: there, what is tried out is everything else
        self._precision = precision if place.provider == "cuda" else "auto"
        self._bundle = Bundle.open(place.bundles / bundle, verify=False)
        self._ids, self._labels = load_batch(place.data)
        given = {"batch_size": len(self._ids), "val_size": 0.0, "steps": 10_000, "provider": place.provider}
        self._options = make({"method": "mezo", **given, "precision": self._precision, **options})

    def build(self) -> None:
        device = open_device(self.place.provider, 0, self._precision)
        rows = read_rows(self._bundle, device, str(self.place.data / "rows.jsonl"), self._options)
        self._job = job = make_job(self._bundle, device, *rows)
        if job.initial:
            job.fold.apply(job.initial())
        self._batch = job.measure.batch(0)
        self._check_batch()
        self._lr = job.plan.options.lr or 0.0
        self._steps = MeasuredHere(job.measure)
        self._points = job.fold.method.most_points
        self._folder = TemporaryDirectory()
        self._journal = Journal.create(Path(self._folder.name) / "journal", _header(self._bundle))
        self.notes += job.notes
        self.passes = self._told()
        self.parts = {"step": self._step, "passes": self._pass}
        job.fold.rest()
        (self._first,) = job.measure.losses(self._batch, range(1))
        for _ in range(3):
            self._step()

    def _check_batch(self) -> None:
        (first,) = self._batch
        same = (first.inputs["input_ids"] == self._ids).all() and (
            first.targets["labels"] == self._labels
        ).all()
        if not same:
            raise SystemExit("the batch of zoedge's first step is not the one that the others are given")

    def _told(self) -> str:
        shared = self._job.measure.together
        return f"{self._points} points" + (f", {shared} a pass" if shared > 1 else "")

    def _step(self) -> None:
        job = self._job
        record = self._steps.next(job.fold, self._lr)
        self._journal.append(record)
        job.fold.apply(record)

    def _pass(self) -> None:
        """Do as many passes as a step, without a move between them."""
        self._job.fold.rest()
        list(self._job.measure.losses(self._batch, range(self._points)))

    def loss(self) -> float:
        """Return the loss of the first batch before the first step."""
        return self._first


def _header(bundle: Bundle) -> Header:
    return Header(bundle=bundle.digest, data="", seed=0, noise=NOISE_VERSION, options={}, zoedge="")
