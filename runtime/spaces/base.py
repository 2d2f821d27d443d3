"""What a trainable space is: it keeps some buffers at theta plus whatever point is being measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Directions, Point, Update

from ..noise.kernels import AddTerms
from ..noise.reference import PURPOSE_SAMPLE, Addition, Sample, Stream, Term, table, tensor_id

Arrays = Mapping[str, NDArray[np.generic]]


class Space(Protocol):
    """One tensor, or a few that move together, and how directions act on them.

    ``visit`` and ``apply`` may be lazy: nothing is written before ``settle``, so that what one step ends
    with and the next begins with can be one pass over memory. The arithmetic per element doesn't depend on
    when ``settle`` is called, which is why a replay (which never settles in between) gives the same bits.

    Attributes:
        assignable: name -> shape of what ``assign`` takes.
        varying: names of the buffers that differ between the points of a step.
        exact: whether leaving a point restores the very bits, and not only up to float32 rounding.
    """

    varying: frozenset[str]
    assignable: dict[str, tuple[int, ...]]
    exact: bool

    def visit(self, step: int, point: Point) -> None:
        """Let the buffers be theta + sum(scale * z_k(step)) when next settled."""

    def apply(self, step: int, update: Update) -> Sequence[Addition]:
        """Let theta be shrink * theta + sum(scale * z_k(step)), and the buffers theta, when next settled.

        The caller makes the additions returned, for all spaces at once, before anything else is asked.
        """

    def settle(self) -> Sequence[Addition]:
        """Bring the buffers up to date, but for the additions returned, which the caller makes as above."""

    def settled(self) -> None:
        """Go on with what depends on those additions, which are made now."""

    def assign(self, values: Arrays) -> None:
        """Go on from values that were computed instead of stepped, in their shapes; only between steps."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what ``load`` needs to continue from here, settled, under names of this space."""

    def load(self, state: Arrays) -> None:
        """Continue from a ``state``."""


class Noise:
    """The terms of one tensor's directions: its stream with the run's seed, its distribution's tables, its samples.

    Attributes:
        add_terms: the kernel of the noise specification.
    """

    def __init__(self, name: str, seed: int, directions: Directions, add_terms: AddTerms) -> None:
        self._seed = seed
        self._tensor = tensor_id(name)
        self._distribution = directions.distribution
        self._elements = directions.elements
        self.add_terms = add_terms

    def term(self, step: int, probe: int, scale: float) -> Term:
        """Return ``scale`` times direction ``probe`` of ``step``."""
        stream = Stream(self._seed, self._tensor, step, probe)
        return Term(stream, table(self._distribution, scale), self.sample(step))

    def sample(self, step: int) -> Sample | None:
        """Return which stretches of the tensor ``step`` moves, the same for all its probes; None for all."""
        if self._elements >= 1.0:
            return None
        return Sample(Stream(self._seed, self._tensor, step, 0, PURPOSE_SAMPLE), self._elements)

    def terms(self, step: int, point: Point) -> list[Term]:
        """Return the terms of a point's moves."""
        return [self.term(step, move.probe, move.scale) for move in point if move.scale != 0.0]
