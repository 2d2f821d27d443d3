"""AdaZeta: two-point estimates along more and more directions (arXiv 2406.18060).

Algorithm 1 and equation 3: in epoch e a step averages Q_e = min(max(floor(alpha e^beta), 1), Q_max) directions. The
number of an epoch counts the steps that were taken; one skipped for a loss that isn't finite changes nothing. As in
the paper's experiments beta is such that alpha e^beta is ``query_end`` behind the last epoch. The paper's adapters
are a kind of what is trained, ``--train tensor-train``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Annotated

import msgspec

from ..settings import Setting
from .core import Defaults, Duration, Length, Method, Point, Recipe, State
from .directions import Dense
from .estimators import TwoPoint
from .options import QUERIES, DenseOptions
from .rules import Sgd
from .scalings import StepCount

_EXACT = Context(prec=28, rounding=ROUND_FLOOR)  # of a library that computes the same everywhere, unlike pow


class AdazetaOptions(DenseOptions, frozen=True):
    """Those of ``DenseOptions``, ``queries`` being the most, and how the directions grow."""

    queries: Annotated[int, QUERIES] = 15
    query_factor: Annotated[float, Setting("alpha of alpha * epoch^beta directions per step", above=0)] = 0.85
    query_growth: Annotated[
        float | None, Setting("beta of alpha * epoch^beta; by default what --query-end takes", least=0)
    ] = None
    query_end: Annotated[
        float, Setting("directions per step to which alpha * epoch^beta would grow", above=0)
    ] = 20.0
    epoch_steps: Annotated[
        int | None, Setting("steps of an epoch; by default those of the data", least=1)
    ] = None

    def for_run(self, duration: Duration) -> AdazetaOptions:
        """Return the settings with the growth and the epochs' steps of a run."""
        epochs = duration.epochs * duration.epoch_steps / (self.epoch_steps or duration.epoch_steps)
        growth = self.query_growth
        if growth is None:
            wanted = math.log(self.query_end / self.query_factor)
            growth = max(0.0, wanted / math.log(epochs)) if epochs > 1.0 else 0.0
        steps = self.epoch_steps or duration.epoch_steps
        return msgspec.structs.replace(self, query_growth=growth, epoch_steps=steps)


@dataclass(frozen=True)
class GrowingTwoPoint(TwoPoint):
    """Central differences along more directions in each epoch, ``queries`` at most."""

    factor: float = 0.85
    growth: float = 0.0
    epoch_steps: int = 1

    @property
    def least_points(self) -> int:
        """Two: the first epoch has one direction."""
        return 2 * self.queries_in(0)

    def queries_in(self, epoch: int) -> int:
        """Return Q_e."""
        if epoch == 0:
            grown = Decimal(self.factor) if self.growth == 0.0 else Decimal(0)
        else:
            power = _EXACT.power(Decimal(epoch), Decimal(self.growth))
            grown = _EXACT.multiply(Decimal(self.factor), power)
        return min(max(int(grown), 1), self.queries)

    def mean_points(self, steps: int) -> float:
        """Return the mean over the epochs."""
        epochs = range(0, steps, self.epoch_steps)
        taken = (min(self.epoch_steps, steps - start) for start in epochs)
        return sum(2 * self.queries_in(e) * n for e, n in enumerate(taken)) / max(1, steps)

    def points(self, state: State, eps: float) -> tuple[Point, ...]:
        """Return those of as many directions as the epoch has."""
        return TwoPoint(self.queries_in(int(state["steps"]) // self.epoch_steps)).points(state, eps)


def build(options: AdazetaOptions) -> Method:
    """Return the method."""
    estimator = GrowingTwoPoint(
        options.queries, options.query_factor, options.query_growth or 0.0, options.epoch_steps or 1
    )
    return Method(
        Dense(options.directions), estimator, Sgd(options.weight_decay), (StepCount(),), options.support
    )


RECIPE = Recipe(
    name="adazeta",
    summary="mezo along one direction at first, and along more in later epochs, up to --queries",
    source="arXiv 2406.18060, algorithm 1",
    # factors: lr and eps of the paper's runs on tensor-train adapters; the others are mezo's
    defaults=Defaults(
        activations=Length(lr=4e-3, eps=1e-2),
        factors=Length(lr=1e-4, eps=1e-3),
        small=Length(lr=1e-4, eps=1e-2),
        dense=Length(lr=1e-6, eps=1e-3),
        schedule="constant",
        steps=2000,
    ),
    options=AdazetaOptions,
    build=build,
)
