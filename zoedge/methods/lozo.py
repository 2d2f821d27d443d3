"""LOZO: two-point estimates along z = U V^T, V kept for a window and U drawn for each probe (arXiv 2410.07698).

Algorithm 1, with directions of unit variance, U V^T / sqrt(r): the paper's update lr c U V^T / r is lr g z, so the
learning rate is the paper's, and eps is the paper's times sqrt(r). Its code leaves out the 1 / r, so that its learning
rates count r times; and where V is drawn anew its update has another U than its probes had, which doesn't happen here,
as every draw has a stream of its own. Tensors of fewer than two axes have dense directions.
"""

import math
from typing import Annotated

from ..settings import Setting
from .core import Defaults, Length, Method, Recipe, Rule
from .directions import LazyLowRank
from .estimators import TwoPoint
from .options import Options
from .rules import Sgd
from .support import Windows


class LozoOptions(Options, frozen=True):
    """Low-rank directions, and how long half of them stays."""

    rank: Annotated[int, Setting("rank of the directions", least=1)] = 2
    refresh: Annotated[int, Setting("steps between new subspaces", least=1)] = 50


def lazy(options: LozoOptions, rule: Rule) -> Method:
    """Return the method that goes on with a rule."""
    return Method(
        LazyLowRank(options.directions, options.rank),
        TwoPoint(options.queries),
        rule,
        support=(*options.support, Windows(options.refresh)),
    )


def build(options: LozoOptions) -> Method:
    """Return the method."""
    return lazy(options, Sgd(options.weight_decay))


# eps is the paper's and lr of its grid for the code, which has directions sqrt(r) times as long
_LONGER = math.sqrt(2.0)

RECIPE = Recipe(
    name="lozo",
    summary="two forwards along a low-rank direction U V^T; V is drawn anew every --refresh steps",
    source="arXiv 2410.07698, algorithm 1, directions scaled to a dense direction's norm",
    defaults=Defaults(
        activations=None,
        factors=Length(lr=1e-5, eps=1e-3).in_units(_LONGER),
        small=Length(lr=5e-5, eps=1e-3).in_units(_LONGER),
        dense=Length(lr=5e-7, eps=1e-3).in_units(_LONGER),
        schedule="constant",
        steps=2000,
    ),
    options=LozoOptions,
    build=build,
)
