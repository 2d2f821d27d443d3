"""What spaces want done to buffers: sweeps over families, and additions where a step narrows what moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from zoedge.methods import Directions, Point

from ..device import Buffer, Device
from ..noise.reference import Addition, Sample, Stream, Term, table, tensor_id
from ..noise.sweep import Family, StepMove, Sweep

Change = Addition[Buffer] | Sweep[Buffer]


class Queued(NamedTuple):
    """A move that is to be made, and the stretches that it is made on; None for all."""

    move: StepMove
    sample: Sample | None


class Noise:
    """The directions of some tensors: their streams with the run's seed, and the distribution.

    Args:
        ids: the tensor id of each.
        seed: the run's.
        directions: the method's.
    """

    def __init__(self, ids: Sequence[int], seed: int, directions: Directions) -> None:
        self._ids, self._seed, self._directions = tuple(ids), seed, directions

    @classmethod
    def of(cls, names: Iterable[str], seed: int, directions: Directions) -> Noise:
        """Return that of tensors by their names."""
        return cls([tensor_id(name) for name in names], seed, directions)

    def each(self) -> Iterator[Noise]:
        """Yield that of each tensor alone."""
        for own in self._ids:
            yield Noise((own,), self._seed, self._directions)

    def family(self, targets: Sequence[Buffer], sources: Sequence[Buffer] | None = None) -> Family[Buffer]:
        """Return buffers of these tensors as a family."""
        return Family(tuple(targets), self._ids, None if sources is None else tuple(sources))

    def queued(self, step: int, point: Point, sample: Sample | None) -> list[Queued]:
        """Return the moves that lead from theta to a point."""
        return [Queued(StepMove(step, m.probe, m.scale), sample) for m in point if m.scale != 0.0]

    def change(
        self,
        family: Family[Buffer],
        queue: Sequence[Queued],
        shrink: float = 1.0,
        shrunk: Sample | None = None,
        mask: Buffer | None = None,
    ) -> Change:
        """Return what makes some moves of a family, after its tensors shrink.

        Args:
            family: of these tensors.
            queue: in the order in which they are added.
            shrink: a factor.
            shrunk: which stretches shrink; None for all.
            mask: of the elements that change at all, as ``Addition.mask``.

        Raises:
            ValueError: several tensors can't have one sample or mask.
        """
        distribution = self._directions.distribution
        if shrunk is None and mask is None and all(queued.sample is None for queued in queue):
            moves = tuple(queued.move for queued in queue)
            return Sweep(family, self._seed, moves, distribution, shrink)
        if len(family.ids) != 1:
            raise ValueError(f"a family of {len(family.ids)} tensors moves as a whole")
        terms = [
            Term(Stream(self._seed, self._ids[0], step, probe), table(distribution, scale), sample)
            for (step, probe, scale), sample in queue
        ]
        source = None if family.sources is None else family.sources[0]
        return Addition(family.targets[0], terms, shrink, shrunk, mask, source)

    def rebuilt(
        self, family: Family[Buffer], lasting: Sequence[Queued], queue: Sequence[Queued], shrink: float
    ) -> Change:
        """Return what moves the sources of a family, after they shrink, and makes its tensors of them.

        Args:
            family: of these tensors.
            lasting: moves of the sources.
            queue: moves from there to what the tensors are to be.
            shrink: a factor.
        """
        moves = tuple(queued.move for queued in (*lasting, *queue))
        return Sweep(family, self._seed, moves, self._directions.distribution, shrink, len(lasting))


def carry_out(device: Device, changes: Iterable[Change]) -> None:
    """Make changes to buffers that don't overlap, in one call of each kind."""
    sweeps: list[Sweep[Buffer]] = []
    additions: list[Addition[Buffer]] = []
    for change in changes:
        if isinstance(change, Sweep):
            sweeps.append(change)
        else:
            additions.append(change)
    if sweeps:
        device.sweep(sweeps)
    if additions:
        device.add_terms(additions)
