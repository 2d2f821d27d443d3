"""Tensors that move alike, each along its own directions: told once for all of them, whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple

from .reference import Addition, Stream, T, Term, table


@dataclass(frozen=True, eq=False)
class Family(Generic[T]):
    """Tensors of one run that move alike; a device may keep what it derives from a family as long as that lives.

    Attributes:
        targets: what is changed; they don't overlap and stay where they are.
        ids: the tensor id of each.
        sources: what each target is made of, as ``Addition.source``; None where targets change in place.
    """

    targets: tuple[T, ...]
    ids: tuple[int, ...]
    sources: tuple[T, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse lists of different lengths.

        Raises:
            ValueError: they are.
        """
        counts = {
            len(self.targets),
            len(self.ids),
            len(self.targets if self.sources is None else self.sources),
        }
        if len(counts) != 1:
            raise ValueError(f"a family needs an id and a source for each of its {len(self.targets)} tensors")

    @cached_property
    def of_sources(self) -> Family[T]:
        """The sources as a family that changes in place.

        Raises:
            ValueError: there are none.
        """
        if self.sources is None:
            raise ValueError("terms stay in the sources of a family, which has none")
        return Family(self.sources, self.ids)


class StepMove(NamedTuple):
    """One move of a step: ``scale`` times direction ``probe`` of ``step``."""

    step: int
    probe: int
    scale: float


class Sweep(NamedTuple, Generic[T]):
    """What is done to all tensors of a family: target <- shrink * target, then each term added in order.

    Attributes:
        family: the tensors.
        seed: the run's.
        terms: what is added.
        distribution: of the directions.
        shrink: as that of an ``Addition``.
        stays: how many of the terms, the first ones, change the sources as well, which shrink, too: targets are then
            made of what the sources become. None where sources are only read.
    """

    family: Family[T]
    seed: int
    terms: tuple[StepMove, ...]
    distribution: str
    shrink: float = 1.0
    stays: int | None = None

    def parts(self) -> list[Sweep[T]]:
        """Return the sweep as one or two that change a single thing, to be made one after the other.

        Raises:
            ValueError: sources are to change, and there are none.
        """
        if self.stays is None:
            return [self]
        lasting = Sweep(
            self.family.of_sources, self.seed, self.terms[: self.stays], self.distribution, self.shrink
        )
        return [lasting, self._replace(terms=self.terms[self.stays :], shrink=1.0, stays=None)]

    def additions(self) -> list[Addition[T]]:
        """Return what a sweep of one part means, tensor by tensor."""
        family = self.family
        tables = [table(self.distribution, move.scale) for move in self.terms]
        return [
            Addition(
                target,
                [
                    Term(Stream(self.seed, tensor, move.step, move.probe), levels)
                    for move, levels in zip(self.terms, tables, strict=True)
                ],
                self.shrink,
                source=source,
            )
            for target, tensor, source in zip(
                family.targets, family.ids, family.sources or [None] * len(family.ids), strict=True
            )
        ]


def rounds(sweeps: Sequence[Sweep[T]]) -> list[list[Sweep[T]]]:
    """Return sweeps over families that don't overlap as sweeps of one part, to be made list after list."""
    parts = [sweep.parts() for sweep in sweeps]
    return [[each[k] for each in parts if len(each) > k] for k in range(max(map(len, parts), default=0))]
