"""ZO-SGD-MMT: two-point estimates with heavy-ball momentum (ZO-Bench, arXiv 2402.11592)."""

from typing import Annotated

from ..settings import Setting
from .core import Defaults, Length, Method, Recipe
from .options import Options
from .rules import Momentum
from .two_point import two_point


class MomentumOptions(Options, frozen=True):
    """Those of ``Options``, and how much of the momentum stays."""

    momentum: Annotated[float, Setting("share of the last steps' direction that stays", least=0, below=1)] = (
        0.9
    )


def build(options: MomentumOptions) -> Method:
    """Return the method."""
    return two_point(options, Momentum(options.momentum, options.weight_decay))


RECIPE = Recipe(
    name="zo-sgd-momentum",
    summary="mezo with momentum, an array as large as what is tuned",
    source="ZO-Bench, arXiv 2402.11592",
    # those of mezo, over 1 / (1 - momentum)
    defaults=Defaults(
        activations=Length(lr=4e-4, eps=1e-2),
        factors=Length(lr=5e-5, eps=1e-2),
        small=Length(lr=1e-5, eps=1e-2),
        dense=Length(lr=1e-7, eps=1e-3),
        schedule="linear",
        steps=2000,
    ),
    options=MomentumOptions,
    build=build,
)
