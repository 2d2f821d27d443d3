"""LOZO-M: LOZO with momentum, which is as small as its factor U (arXiv 2410.07698, algorithm 2).

    N <- beta N + (1 - beta) g U;    W <- W - lr N V^T

in units of unit variance (see ``lozo``). Where V is drawn anew, N goes over into the new directions as
N V_before^T V / n. Its code gives the first estimate its full weight; here as in the paper N begins at 0.
"""

from typing import Annotated

from ..settings import Setting
from .core import Method, Recipe
from .lozo import RECIPE as LOZO
from .lozo import LozoOptions, lazy
from .rules import MovingAverage, Sgd


class LozoMOptions(LozoOptions, frozen=True):
    """Those of LOZO, and how much of the momentum stays."""

    momentum: Annotated[float, Setting("share of the last steps' direction that stays", least=0, below=1)] = (
        0.9
    )


def build(options: LozoMOptions) -> Method:
    """Return the method."""
    if options.momentum == 0.0:
        return lazy(options, Sgd(options.weight_decay))
    return lazy(options, MovingAverage(options.momentum, options.weight_decay))


RECIPE = Recipe(
    name="lozo-m",
    summary="lozo with momentum, rows x rank numbers a matrix",
    source="arXiv 2410.07698, algorithm 2",
    defaults=LOZO.defaults,
    options=LozoMOptions,
    build=build,
)
