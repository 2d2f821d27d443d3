"""Tensors that move alike, each along its own directions: told once for all of them, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    family: Family[T]
    seed: int
    terms: tuple[StepMove, ...]
    distribution: str
    shrink: float = 1.0

    def additions(self) -> list[Addition[T]]:
        """Return what the sweep means, tensor by tensor."""
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
