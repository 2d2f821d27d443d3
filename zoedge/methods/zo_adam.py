"""ZO-Adam: Adam on two-point estimates (ZO-Bench, arXiv 2402.11592; Adam, arXiv 1412.6980)."""

from typing import Annotated

from ..settings import Setting
from .core import Defaults, Length, Method, Recipe
from .options import Options
from .rules import Adam
from .two_point import two_point


class AdamOptions(Options, frozen=True):
    """Those of ``Options``, and how long both moments last."""

    beta1: Annotated[float, Setting("share of the first moment that stays", least=0, below=1)] = 0.9
    beta2: Annotated[float, Setting("share of the second moment that stays", least=0, below=1)] = 0.999


def build(options: AdamOptions) -> Method:
    """Return the method."""
    return two_point(options, Adam(options.beta1, options.beta2, weight_decay=options.weight_decay))


RECIPE = Recipe(
    name="zo-adam",
    summary="mezo whose estimates go through Adam: three arrays as large as what is tuned",
    source="ZO-Bench, arXiv 2402.11592",
    defaults=Defaults(
        activations=Length(lr=1e-2, eps=1e-2),
        factors=Length(lr=4e-3, eps=1e-2),
        small=Length(lr=2e-3, eps=1e-2),
        dense=Length(lr=1e-5, eps=1e-3),
        schedule="linear",
        steps=1000,
    ),
    options=AdamOptions,
    build=build,
)
