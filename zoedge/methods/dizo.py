"""DiZO: MeZO, and now and then a search for how far each layer should have gone (arXiv 2502.03304).

After every kappa steps of MeZO come some that move nothing but one scalar a matrix, for the query and value matrices.
With Delta = theta - theta0 of a matrix, theta0 as it was exported (of a LoRA branch: its first values), n = |Delta| as
these steps begin, and gamma = n at first:

    theta(gamma) = theta0 + gamma / n Delta
    g            = (L(gamma + eps_p z) - L(gamma - eps_p z)) / (2 eps_p),    z one Gaussian number a matrix, within
                                                                             +-tau n / eps_p
    gamma        <- gamma - s n g z,                                         within (1 - tau) n and (1 + tau) n

Each of these is a step of the run, with rows and two forward passes of its own, so that kappa + 10 steps take what the
paper's kappa iterations do. The learning rate and its schedule have no part in them, s being relative already. The
paper projects query and value, its code value and key ("value-key"). The embedding table trains where it was exported
to. A matrix is rebuilt from theta0 and where it stands, in float32, and theta0 is read from the bundle's file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ..settings import Setting
from .core import Defaults, Estimator, Length, Method, Move, Point, Recipe, Rule, State, Update
from .directions import Dense
from .estimators import TwoPoint
from .options import Options
from .rules import Sgd
from .support import Projected, Projection, Support

_TURN = "turn"  # steps since the last projection's end


class DizoOptions(Options, frozen=True):
    """Those of ``Options``, and what is projected, when and how."""

    project: Annotated[Projected, Setting("which matrices are projected: the query and value ones")] = (
        "query-value"
    )
    project_every: Annotated[int, Setting("steps between projections (kappa)", least=1)] = 50
    project_steps: Annotated[int, Setting("steps of a projection, two forward passes each", least=1)] = 10
    project_range: Annotated[
        float, Setting("how far a matrix's change may be scaled, as a share (tau)", above=0, below=1)
    ] = 0.2
    project_eps: Annotated[float, Setting("perturbation of a projection's scalars", above=0)] = 0.1
    project_rate: Annotated[float, Setting("learning rate of a projection's scalars (s)", above=0)] = 2.0

    @property
    def projection(self) -> Projection:
        """What is projected and when."""
        return Projection(
            self.project, self.project_every, self.project_steps, self.project_range, self.project_eps
        )

    @property
    def support(self) -> tuple[Support, ...]:
        """What narrows the elements that a step moves."""
        return (*super().support, self.projection)


@dataclass(frozen=True)
class InTurns(Estimator):
    """Central differences along directions for some steps, then along scalars."""

    usual: TwoPoint
    projection: Projection

    @property
    def most_points(self) -> int:
        """Those of the usual steps, two at least."""
        return self.usual.most_points

    @property
    def least_points(self) -> int:
        """Those of a scalar's steps."""
        return TwoPoint(1).most_points

    def mean_points(self, steps: int) -> float:
        """Return the mean over usual steps and those of scalars."""
        cycles, rest = divmod(steps, self.projection.cycle)
        usual = cycles * self.projection.every + min(rest, self.projection.every)
        return (usual * self.most_points + (steps - usual) * self.least_points) / max(1, steps)

    def points(self, state: State, eps: float) -> tuple[Point, ...]:
        """Return the points of a usual step or of a projection's."""
        estimator, length = self._at(state, eps)
        return estimator.points(state, length)

    def coefficients(self, state: State, answers: Sequence[float], eps: float) -> tuple[float, ...]:
        """Return the derivatives along the step's directions or scalars."""
        estimator, length = self._at(state, eps)
        return estimator.coefficients(state, answers, length)

    def _at(self, state: State, eps: float) -> tuple[TwoPoint, float]:
        if state[_TURN] < self.projection.every:
            return self.usual, eps
        return TwoPoint(1), self.projection.eps


@dataclass(frozen=True)
class ProjectedSgd(Rule):
    """The usual rule, and in its turn gradient descent on scalars."""

    usual: Sgd
    projection: Projection
    rate: float

    def init(self) -> State:
        """Return the first turn."""
        return {_TURN: 0.0}

    def update(self, state: State, g: tuple[float, ...], lr: float) -> tuple[State, Update]:
        """Return the moves of the directions, or of the scalars in units of n."""
        if state[_TURN] < self.projection.every:
            return self.skipped(state), self.usual.update(state, g, lr)[1]
        return self.skipped(state), Update((Move(0, -self.rate * g[0]),))

    def skipped(self, state: State) -> State:
        """Return the next turn, whatever became of this one."""
        return {_TURN: (state[_TURN] + 1.0) % self.projection.cycle}


def build(options: DizoOptions) -> Method:
    """Return the method."""
    projection = options.projection
    return Method(
        Dense(options.directions),
        InTurns(TwoPoint(options.queries), projection),
        ProjectedSgd(Sgd(options.weight_decay), projection, options.project_rate),
        support=options.support,
    )


RECIPE = Recipe(
    name="dizo",
    summary="mezo that looks every 50 steps how far each query and value matrix should have gone",
    source="arXiv 2502.03304, algorithm 1 and the settings of its code",
    defaults=Defaults(
        activations=None,
        factors=Length(lr=5e-4, eps=1e-2),
        small=Length(lr=1e-4, eps=1e-2),
        dense=Length(lr=1e-6, eps=1e-3),
        schedule="linear",
        steps=2400,
    ),
    options=DizoOptions,
    build=build,
)
