"""SubZero: two-point estimates along low-rank directions U Z V^T, U and V kept for a window (arXiv 2410.08989)."""

from typing import Annotated

from ..settings import Setting
from .core import Defaults, Length, Method, Recipe
from .directions import LowRank
from .estimators import TwoPoint
from .options import Options
from .rules import Sgd
from .support import Windows


class SubzeroOptions(Options, frozen=True):
    """Low-rank directions, and how long they stay."""

    rank: Annotated[int, Setting("rank of the directions", least=1)] = 8
    refresh: Annotated[int, Setting("steps between new subspaces", least=1)] = 500


def build(options: SubzeroOptions) -> Method:
    """Return the method."""
    return Method(
        LowRank(options.directions, options.rank),
        TwoPoint(options.queries),
        Sgd(options.weight_decay),
        support=(*options.support, Windows(options.refresh)),
    )


RECIPE = Recipe(
    name="subzero",
    summary="two forwards along a low-rank direction U Z V^T; U and V are drawn anew every --refresh steps",
    source="arXiv 2410.08989, algorithm 1, directions scaled to a dense direction's norm",
    defaults=Defaults(
        activations=None,
        factors=Length(lr=2e-5, eps=1e-3),
        small=Length(lr=1e-4, eps=1e-3),
        dense=Length(lr=1e-6, eps=1e-3),
        schedule="constant",
        steps=2000,
    ),
    options=SubzeroOptions,
    build=build,
)
