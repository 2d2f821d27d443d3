"""How the losses at a step's points are got: a pass for each, or several points in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from ..data.batches import MicroBatch, Result
from ..data.example import Array
from ..device import Buffer, Device, Grain
from .engine import Begun, Later, Stacked


class Forward(Protocol):
    """What runs a bundle's loss graph at the buffers' present values; see ``Engine`` and ``Staged``."""

    outputs: tuple[str, ...]
    grain: Grain

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once."""

    def begin(self, inputs: Mapping[str, Array]) -> Begun:
        """Do what all points of a step have in common."""

    def finish(
        self, begun: Begun, outputs: Sequence[str] | None = None, stacked: Stacked | None = None
    ) -> dict[str, Array]:
        """Do the rest, at the present point or at those that are stacked."""

    def later(
        self, begun: Begun, outputs: Sequence[str] | None = None, stacked: Stacked | None = None
    ) -> Later:
        """Ask for the same as a pass of a step; return what waits for it."""


Meanwhile = Callable[[], object]


def _nothing() -> None:
    """Do nothing while passes are on their way."""


class Probing(Protocol):
    """Measures a batch at some points; ``count`` of them at most in a pass."""

    @property
    def count(self) -> int:
        """Most points in a pass."""

    def results(
        self,
        batch: Sequence[MicroBatch],
        points: Iterable[object],
        outputs: Sequence[str] | None,
        meanwhile: Meanwhile = _nothing,
    ) -> Iterator[list[Result]]:
        """Yield the batch's results at each point.

        Args:
            batch: the passes of a step.
            points: each time it is advanced, the buffers are at the next point.
            outputs: the outputs wanted; None for all.
            meanwhile: is called, perhaps, while passes are on their way.
        """


class OneByOne:
    """A pass for each point.

    Args:
        forward: what runs it.
        ahead: points that may be passed before the results of the first are there.
    """

    count = 1

    def __init__(self, forward: Forward, ahead: int = 0) -> None:
        self.forward, self._ahead = forward, ahead

    def results(
        self,
        batch: Sequence[MicroBatch],
        points: Iterable[object],
        outputs: Sequence[str] | None,
        meanwhile: Meanwhile = _nothing,
    ) -> Iterator[list[Result]]:
        """Yield the batch's results at each point."""
        begun = [self.forward.begin(b.given) for b in batch]
        passed: deque[list[Later]] = deque()
        for _ in points:
            passed.append([self.forward.later(x, outputs) for x in begun])
            if len(passed) > self._ahead:
                yield _waited(batch, passed.popleft())
        if self._ahead:
            meanwhile()
        for passes in passed:
            yield _waited(batch, passes)


class Together:
    """A pass for several points.

    What passes read is kept and filled anew for each of them: a device may count on its place.

    Args:
        forward: one that takes stacked values.
        buffers: name -> the tensors that differ between the points of a step.
        count: most points in a pass.
        device: where the buffers are.
    """

    def __init__(self, forward: Forward, buffers: Mapping[str, Buffer], count: int, device: Device) -> None:
        self.forward, self.count, self._device = forward, count, device
        self._buffers = tuple(buffers.values())
        # by the number of points: all lie at the start of the largest
        self._stacked: dict[int, Stacked] = {
            count: {name: device.empty_stack(buffer, count) for name, buffer in buffers.items()}
        }
        self._whole = tuple(self._stacked[count].values())

    def results(
        self,
        batch: Sequence[MicroBatch],
        points: Iterable[object],
        outputs: Sequence[str] | None,
        meanwhile: Meanwhile = _nothing,
    ) -> Iterator[list[Result]]:
        """Yield the batch's results at each point."""
        begun = [self.forward.begin(b.given) for b in batch]
        left = iter(points)
        while count := self._gather(islice(left, self.count)):
            stacked = self._first(count)
            asked = [self.forward.later(x, outputs, stacked) for x in begun]
            meanwhile()
            passes = _waited(batch, asked)
            for point in range(count):
                yield [(b, _part(out, point, count)) for b, out in passes]

    def _gather(self, points: Iterable[object]) -> int:
        """Keep the buffers at each of the points; return how many there were left."""
        count = 0
        for _ in points:
            self._device.gather(self._buffers, self._whole, count)
            count += 1
        return count

    def _first(self, count: int) -> Stacked:
        if count not in self._stacked:
            whole = self._stacked[self.count].items()
            self._stacked[count] = {name: self._device.first(buffer, count) for name, buffer in whole}
        return self._stacked[count]


def _waited(batch: Sequence[MicroBatch], passes: Sequence[Later]) -> list[Result]:
    """Return the results of passes that were asked for."""
    return [(b, wait()) for b, wait in zip(batch, passes, strict=True)]


def _part(outputs: Mapping[str, Array], point: int, count: int) -> dict[str, Array]:
    """Return one point's rows."""
    parts = {name: len(value) // count for name, value in outputs.items()}
    return {name: value[point * parts[name] : (point + 1) * parts[name]] for name, value in outputs.items()}
