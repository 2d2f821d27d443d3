"""How the losses at a step's points are got: a pass for each, or several points in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

import numpy as np

from ..data.batches import MicroBatch, Result
from ..data.example import Array, Arrays
from ..noise.reference import Float32
from .staged import Staged


class Forward(Protocol):
    """What runs a bundle's loss graph at the buffers' present values."""

    outputs: tuple[str, ...]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; see ``Engine.run``."""


class Probing(Protocol):
    """Measures a batch at some points; ``count`` of them at most in a pass."""

    @property
    def count(self) -> int:
        """Most points in a pass."""

    def results(
        self, batch: Sequence[MicroBatch], points: Iterable[object], outputs: Sequence[str] | None
    ) -> Iterator[list[Result]]:
        """Yield the batch's results at each point.

        Args:
            batch: the passes of a step.
            points: each time it is advanced, the buffers are at the next point.
            outputs: the outputs wanted; None for all.
        """


class OneByOne:
    """A pass of the whole graph for each point."""

    count = 1

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def results(
        self, batch: Sequence[MicroBatch], points: Iterable[object], outputs: Sequence[str] | None
    ) -> Iterator[list[Result]]:
        """Yield the batch's results at each point."""
        for _ in points:
            yield [(b, self._forward.run(b.given, outputs)) for b in batch]


class Together:
    """The part before the first trainable tensor once, the rest for ``count`` points a pass.

    Args:
        staged: runs the two parts.
        buffers: name -> the LoRA factors that differ between the points of a step.
        count: most points in a pass; with 1 only the first part is shared.
    """

    def __init__(self, staged: Staged, buffers: Mapping[str, Float32], count: int) -> None:
        self._staged, self._buffers, self.count = staged, buffers, count

    def results(
        self, batch: Sequence[MicroBatch], points: Iterable[object], outputs: Sequence[str] | None
    ) -> Iterator[list[Result]]:
        """Yield the batch's results at each point."""
        begun = [self._staged.begin(b.given) for b in batch]
        if self.count == 1:
            for _ in points:
                yield [(b, self._staged.finish(x, {}, outputs)) for b, x in zip(batch, begun, strict=True)]
            return
        left = iter(points)
        while stacked := self._stack(islice(left, self.count)):
            count = len(next(iter(stacked.values())))
            passes = [self._staged.finish(x, stacked, outputs) for x in begun]
            for probe in range(count):
                yield [(b, _part(out, probe, count)) for b, out in zip(batch, passes, strict=True)]

    def _stack(self, points: Iterable[object]) -> Arrays:
        """Return the factors at each of the points, [points, ...]; {} when there is none left."""
        rows = [{name: buffer.copy() for name, buffer in self._buffers.items()} for _ in points]
        return {name: np.stack([row[name] for row in rows]) for name in self._buffers} if rows else {}


def _part(outputs: Mapping[str, Array], probe: int, count: int) -> dict[str, Array]:
    """Return one probe's rows."""
    return {name: np.split(value, count)[probe] for name, value in outputs.items()}
