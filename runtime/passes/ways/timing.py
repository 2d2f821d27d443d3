"""What a way of measuring takes and gives on a batch of the run's own, before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ...data.batches import MicroBatch
from ...machine.timing import best_seconds
from ..probing import Probing
from .situation import Situation


def timed(situation: Situation, probing: Probing) -> float:
    """Return the seconds of a step's passes, the best of a few."""

    def step() -> None:
        for _ in probing.results(situation.batch, _points(situation), situation.outputs):
            pass

    return best_seconds(step)


def bits(situation: Situation, probing: Probing) -> list[bytes]:
    """Return every output at every point, of the step's rows and of its first row alone."""
    alone = [_first_row(situation.batch[0])]
    return [
        out[name].tobytes()
        for batch in (situation.batch, alone)
        for results in probing.results(batch, _points(situation), situation.outputs)
        for _, out in results
        for name in sorted(out)
    ]


def _first_row(batch: MicroBatch) -> MicroBatch:
    first = [{name: array[:1] for name, array in part.items()} for part in (batch.inputs, batch.targets)]
    return MicroBatch(first[0], first[1], batch.rows[:1])


def _points(situation: Situation) -> Iterator[int]:
    """Let the branches differ from point to point, as points do."""
    rng = np.random.default_rng(0)
    names = sorted(situation.varying.intersection(situation.bundle.manifest.factors))
    for point in range(situation.points):
        for name in names:
            shape = situation.buffers[name].shape
            values = 0.01 * rng.standard_normal(shape, dtype=np.float32)
            situation.device.write(situation.buffers[name], values)
        yield point


@contextmanager
def trial_values(situation: Situation) -> Iterator[None]:
    """Put back what ``_points`` changes; a new head is given values, as with zeros no bits of features would show."""
    manifest, buffers, device = situation.bundle.manifest, situation.buffers, situation.device
    head = {manifest.head.weight} if manifest.head is not None and manifest.head.fresh else set()
    kept = {name: device.copy(buffers[name]) for name in head.union(manifest.factors) & buffers.keys()}
    for name in head:
        values = np.random.default_rng(0).standard_normal(buffers[name].shape, dtype=np.float32)
        device.write(buffers[name], values)
    try:
        yield
    finally:
        for name, value in kept.items():
            device.write(buffers[name], value)
