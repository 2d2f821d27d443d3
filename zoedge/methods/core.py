"""What a method is: directions, an estimator and scalings, composed; it asks for losses and is told them.

A method never sees a tensor or a session. It names directions by index (0 .. queries-1 within a step),
asks for the losses at points theta + sum(scale * z_k), and answers with an update of the same form:

    ask  -> points              estimator.points(eps)
    tell -> coefficients g      estimator.coefficients(losses, eps)       one per direction
            scaled              scaling(state, g)                         each in turn
            update              theta <- (1 - lr wd) theta - lr mean_k(g_k z_k)

State is a small immutable mapping of floats: together with the journal's records it is a pure function of
the past, which is what makes resume and replay one and the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

State = Mapping[str, float]


class Move(NamedTuple):
    """``scale`` times the direction of index ``probe``."""

    probe: int
    scale: float


Point = tuple[Move, ...]  # where to measure: theta plus the sum of the moves; () is theta itself


class Update(NamedTuple):
    """theta <- shrink * theta + sum of the moves; ``shrink`` spares tensors exempt from weight decay."""

    moves: Point = ()
    shrink: float = 1.0


@dataclass(frozen=True)
class Directions:
    """The distribution of z.

    Attributes:
        distribution: a table of the noise specification, "gaussian" or "rademacher"; unit variance.
        rank: None for z of full shape; r for z = s U Z V^T on matrices, with U, V orthonormal and
            Z [r, r] of the distribution (SubZero, arXiv 2410.08989).
        refresh: steps for which one pair U, V stays, with ``rank``.
        layers: the share of the layers that a step moves, drawn anew each step; None for all.
        elements: the share of a tensor's elements that a step moves, drawn anew each step; 1 with ``rank``.
    """

    distribution: str
    rank: int | None = None
    refresh: int = 0
    layers: float | None = None
    elements: float = 1.0


class Estimator(Protocol):
    """Turns losses at points into one directional derivative per direction."""

    def points(self, eps: float) -> tuple[Point, ...]:
        """Return the points to measure, in order."""

    def coefficients(self, losses: Sequence[float], eps: float) -> tuple[float, ...]:
        """Return g_k for each direction k, from the losses at ``points(eps)``."""


class Scaling(Protocol):
    """Rescales the coefficients; may keep scalars in the state under names of its own."""

    def init(self) -> State:
        """Return the scalars it starts with."""

    def __call__(self, state: State, g: tuple[float, ...]) -> tuple[State, tuple[float, ...]]:
        """Return the new scalars and the rescaled coefficients."""


class Length(NamedTuple):
    """How far a step goes and how far it looks."""

    lr: float
    eps: float


@dataclass(frozen=True)
class Defaults:
    """Settings that suit a method, used where the user gives none.

    Attributes:
        activations: for matrices between principal directions of activations; None where the method has
            directions of its own.
        factors: for LoRA branches moved otherwise.
        small: for dense tensors of few elements: heads, biases and norms, small networks.
        dense: for larger ones.
        queries, schedule, steps: as the options of these names.
    """

    activations: Length | None
    factors: Length
    small: Length
    dense: Length
    queries: int
    schedule: str
    steps: int


@dataclass(frozen=True)
class Method:
    """A named composition; see the module's text for the order in which the parts act."""

    name: str
    summary: str
    source: str
    directions: Directions
    estimator: Estimator
    scalings: tuple[Scaling, ...] = ()
    weight_decay: float = 0.0

    def init(self) -> State:
        """Return the state before the first step."""
        state: dict[str, float] = {}
        for scaling in self.scalings:
            state |= scaling.init()
        return MappingProxyType(state)

    def ask(self, eps: float) -> tuple[Point, ...]:
        """Return the points whose losses the step needs."""
        return self.estimator.points(eps)

    def tell(self, state: State, losses: Sequence[float], *, lr: float, eps: float) -> Told:
        """Return the next state and the update that follows from the losses at ``ask(eps)``."""
        g = scaled = self.estimator.coefficients(losses, eps)
        merged = dict(state)
        for scaling in self.scalings:
            changed, scaled = scaling(merged, scaled)
            merged |= changed
        moves = tuple(Move(k, -lr * c / len(scaled)) for k, c in enumerate(scaled))
        return Told(MappingProxyType(merged), Update(moves, 1.0 - lr * self.weight_decay), g)


class Told(NamedTuple):
    """What ``Method.tell`` returns; ``g`` are the unscaled directional derivatives, for the log."""

    state: State
    update: Update
    g: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """A method before its options are known: one file of this package defines one."""

    name: str
    summary: str
    source: str
    defaults: Defaults
    distribution: str
    estimator: type[Estimator]
    scalings: tuple[Scaling, ...] = field(default=())
    low_rank: bool = False
    least_queries: int = 1  # fewer directions a step carry nothing

    def build(
        self,
        *,
        queries: int,
        weight_decay: float,
        rank: int,
        refresh: int,
        layers: float | None = None,
        elements: float = 1.0,
        distribution: str | None = None,
    ) -> Method:
        """Return the method with its options filled in; None stands for what is its own, or for all.

        ``elements`` decides nothing for a method of low-rank directions: they move a matrix as a whole.
        """
        directions = Directions(distribution or self.distribution, layers=layers, elements=elements)
        if self.low_rank:
            directions = replace(directions, rank=rank, refresh=refresh, elements=1.0)
        estimator = self.estimator(queries)  # type: ignore[call-arg]
        return Method(
            self.name, self.summary, self.source, directions, estimator, self.scalings, weight_decay
        )
