"""What a method is: directions, an estimator, scalings and a rule, composed; it asks for answers and is told them.

A method never sees a session. It names directions by index (0 .. queries-1 within a step), asks for what the model
answers at points theta + sum(scale * z_k), and answers with an update:

    ask  -> points              estimator.points(state, eps)
    tell -> coefficients g      estimator.coefficients(state, answers, eps)    one per direction
            scaled              scaling(state, g)                              each in turn
            update              rule.update(state, scaled, lr)

A decision, where a method has one, stands behind the rule: it asks for what the model answers where that update leads
(``ask_more``, once the answers at the first points are known) and makes another update of what it is told.

State is a small immutable mapping of floats, and the dense arrays that a rule keeps beside the parameters: together
with the journal's records both are a pure function of the past, which is what makes resume and replay one and the
same thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from .directions import Directions
from .support import Support

State = Mapping[str, float]


class Move(NamedTuple):
    """``scale`` times the direction of index ``probe``."""

    probe: int
    scale: float


Point = tuple[Move, ...]  # where to measure: theta plus the sum of the moves; () is theta itself


class Tensor(Protocol):
    """A parameter and the arrays that a rule keeps beside it, where they live: float32, all of one shape."""

    @property
    def size(self) -> int:
        """How many elements each has."""

    def add(self, name: str, moves: Point, shrink: float = 1.0) -> None:
        """Let an array ("theta" for the parameter) be shrink * itself + sum(scale * z_k)."""

    def parts(self) -> Iterator[dict[str, Any]]:
        """Yield "theta" and the arrays in flat pieces of bounded size, to be changed in place element by element."""


DenseStep = Callable[[Tensor, Point, float], None]  # a tensor, the moves, and its own shrink


class Update(NamedTuple):
    """theta <- shrink * theta + sum of the moves; ``shrink`` spares tensors exempt from weight decay.

    With ``dense``, it is called for each tensor that moves instead, and makes of the moves what it will.
    """

    moves: Point = ()
    shrink: float = 1.0
    dense: DenseStep | None = None


class Estimator(Protocol):
    """Turns what the model answers at points into one directional derivative per direction.

    An answer is a loss, unless an estimator says otherwise.
    """

    @property
    def most_points(self) -> int:
        """Most points that a step asks for."""

    @property
    def least_points(self) -> int:
        """Fewest points that a step asks for: as many, unless the number varies."""
        return self.most_points

    def mean_points(self, steps: int) -> float:
        """Return how many points a step asks for on average over the first so many."""
        return float(self.most_points)

    def points(self, state: State, eps: float) -> tuple[Point, ...]:
        """Return the points to measure, in order."""

    def coefficients(self, state: State, answers: Sequence[float], eps: float) -> tuple[float, ...]:
        """Return g_k for each direction k, from the answers at ``points(state, eps)``."""

    def loss(self, answers: Sequence[float]) -> float:
        """Return the step's loss for the log, the mean of the finite ones; NaN without any."""
        finite = [loss for loss in answers if math.isfinite(loss)]
        return math.fsum(finite) / len(finite) if finite else math.nan


class Scaling(Protocol):
    """Rescales the coefficients; may keep scalars in the state under names of its own."""

    def init(self) -> State:
        """Return the scalars it starts with."""

    def __call__(self, state: State, g: tuple[float, ...]) -> tuple[State, tuple[float, ...]]:
        """Return the new scalars and the rescaled coefficients."""


class Rule(Protocol):
    """Makes an update of the coefficients; may keep scalars in the state, and arrays beside the parameters."""

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays kept beside each moved tensor, zeros at first; as large, or as U of lazy directions."""
        return ()

    def init(self) -> State:
        """Return the scalars it starts with."""
        return {}

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the new scalars and what is to be done."""

    def skipped(self, state: State) -> State:
        """Return the scalars that change where a step is skipped, as its answers aren't finite."""
        return {}


class Decision(Protocol):
    """Looks where an update leads before it is made; only of rules that keep no arrays and shrink nothing."""

    @property
    def most_points(self) -> int:
        """Most points that it asks for."""

    def points(self, moves: Point) -> tuple[Point, ...]:
        """Return the points to measure before an update of these moves, in order."""

    def chosen(self, moves: Point, answers: Sequence[float]) -> Point:
        """Return the moves to make instead, from the answers at ``points(moves)``."""


class Length(NamedTuple):
    """How far a step goes and how far it looks."""

    lr: float
    eps: float

    def in_units(self, scale: float) -> Length:
        """Return what this is for directions of unit variance, where it was found with such ``scale`` times as long.

        A step of lr g z with g along scale z is one of lr scale^2, and a probe of eps one of eps scale.
        """
        return Length(self.lr * scale * scale, self.eps * scale)


@dataclass(frozen=True)
class Defaults:
    """Settings of a run that suit a method, used where the user gives none.

    Attributes:
        activations: for matrices between principal directions of activations; None where the method has
            directions of its own.
        factors: for LoRA branches moved otherwise.
        small: for dense tensors of few elements: heads, biases and norms, small networks.
        dense: for larger ones.
        schedule, steps: as the options of these names.
    """

    activations: Length | None
    factors: Length
    small: Length
    dense: Length
    schedule: str
    steps: int


@dataclass(frozen=True)
class Method:
    """A composition; see the module's text for the order in which the parts act.

    Attributes:
        directions: what z is.
        support: what narrows which tensors and elements a step moves; everything moves without.
        decision: what looks where a step leads; None where it is made unseen.
    """

    directions: Directions
    estimator: Estimator
    rule: Rule
    scalings: tuple[Scaling, ...] = ()
    support: tuple[Support, ...] = ()
    decision: Decision | None = None

    @property
    def most_points(self) -> int:
        """Most points that a step asks for."""
        return self.estimator.most_points + (self.decision.most_points if self.decision else 0)

    @property
    def most_at_once(self) -> int:
        """Most points that it asks for before it is told of any."""
        return max(self.estimator.most_points, self.decision.most_points if self.decision else 0)

    def mean_points(self, steps: int) -> float:
        """Return how many points a step asks for on average over the first so many."""
        return self.estimator.mean_points(steps) + (self.decision.most_points if self.decision else 0)

    @property
    def memory(self) -> str:
        """What a run keeps from step to step beside what is tuned, in words."""
        arrays, numbers = len(self.rule.arrays), len(self.init())
        kept = [
            f"{arrays} array{'s' if arrays > 1 else ''} {self.directions.beside}" if arrays else "",
            self.directions.memory,
            *(str(getattr(part, "memory", "")) for part in self.support),
            f"{numbers} number{'s' if numbers > 1 else ''}" if numbers else "",
        ]
        return ", ".join(filter(None, kept)) or "nothing"

    @property
    def told_points(self) -> str:
        """How many points a step asks for, in words: "17", or "2 to 30"."""
        more = self.decision.most_points if self.decision else 0
        least, most = self.estimator.least_points + more, self.most_points
        return f"{most}" if least == most else f"{least} to {most}"

    def init(self) -> State:
        """Return the scalars before the first step."""
        state = dict(self.rule.init())
        for scaling in self.scalings:
            state |= scaling.init()
        return MappingProxyType(state)

    def ask(self, state: State, eps: float) -> tuple[Point, ...]:
        """Return the points whose answers the step needs first."""
        return self.estimator.points(state, eps)

    def ask_more(self, state: State, answers: Sequence[float], *, lr: float, eps: float) -> tuple[Point, ...]:
        """Return the points whose answers the step needs besides those so far; () where that is all."""
        if self.decision is None or len(answers) > len(self.ask(state, eps)):
            return ()
        return self.decision.points(self._told(state, answers, lr, eps).update.moves)

    def tell(self, state: State, answers: Sequence[float], *, lr: float, eps: float) -> Told:
        """Return the next state and the update that follows from the answers at all points that were asked for."""
        first = len(self.ask(state, eps))
        told = self._told(state, answers[:first], lr, eps)
        if self.decision is None or len(answers) == first:
            return told
        moves = self.decision.chosen(told.update.moves, answers[first:])
        return told._replace(update=told.update._replace(moves=moves))

    def _told(self, state: State, answers: Sequence[float], lr: float, eps: float) -> Told:
        """Return what the parts before the decision make of the answers at the first points."""
        g = scaled = self.estimator.coefficients(state, answers, eps)
        merged = dict(state)
        for scaling in self.scalings:
            changed, scaled = scaling(merged, scaled)
            merged |= changed
        changed, update = self.rule.update(merged, scaled, lr)
        return Told(MappingProxyType(merged | dict(changed)), update, g)

    def skipped(self, state: State) -> State:
        """Return the next state where nothing follows from a step."""
        changed = self.rule.skipped(state)
        return MappingProxyType({**state, **changed}) if changed else state

    def loss(self, answers: Sequence[float]) -> float:
        """Return the step's loss for the log."""
        return self.estimator.loss(answers[: self.estimator.most_points])


class Told(NamedTuple):
    """What ``Method.tell`` returns; ``g`` are the unscaled directional derivatives, for the log."""

    state: State
    update: Update
    g: tuple[float, ...]


class Duration(NamedTuple):
    """How long a run is to be, or is taken to be where only time bounds it."""

    epoch_steps: int
    epochs: float


class MethodOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a method's own settings: fields of ``Annotated[type, Setting(...)]``."""

    def for_run(self, duration: Duration) -> MethodOptions:
        """Return the settings with those filled in that follow from a run's length; a journal keeps them."""
        return self


@dataclass(frozen=True)
class Recipe:
    """A method before its options are known: one file of this package defines one.

    Attributes:
        options: the class of its own settings.
        build: from those to the method.
    """

    name: str
    summary: str
    source: str
    defaults: Defaults
    options: type[MethodOptions]
    build: Callable[[Any], Method]
