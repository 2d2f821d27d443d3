"""ZO-SGD-Sign: the sign of the directional derivative times its direction (ZO-Bench, arXiv 2402.11592).

The sign is of the scalar, not of each element; with sign directions both are the same.
"""

from .core import Defaults, Length, Method, Recipe
from .options import DenseOptions
from .rules import Sgd
from .scalings import Sign
from .two_point import two_point


def build(options: DenseOptions) -> Method:
    """Return the method."""
    return two_point(options, Sgd(options.weight_decay), Sign())


RECIPE = Recipe(
    name="zo-sgd-sign",
    summary="mezo that takes steps of one length, in the direction that the sign tells",
    source="ZO-Bench, arXiv 2402.11592; signSGD, arXiv 1802.04434",
    defaults=Defaults(
        activations=Length(lr=6e-3, eps=1e-2),
        factors=Length(lr=2e-3, eps=1e-2),
        small=Length(lr=1e-3, eps=1e-2),
        dense=Length(lr=1e-5, eps=1e-3),
        schedule="linear",
        steps=1000,
    ),
    options=DenseOptions,
    build=build,
)
