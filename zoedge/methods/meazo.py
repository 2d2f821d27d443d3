"""MEAZO: MeZO whose step is divided by the root of one scalar second moment."""

from .core import Defaults, Length, Method, Recipe
from .options import DenseOptions
from .rules import Sgd
from .scalings import SecondMoment
from .two_point import two_point


def build(options: DenseOptions) -> Method:
    """Return the method."""
    return two_point(options, Sgd(options.weight_decay), SecondMoment())


RECIPE = Recipe(
    name="meazo",
    summary="mezo with one scalar second moment, so that lr no longer depends on the loss's scale",
    source="MEAZO; the second moment is Adam's (arXiv 1412.6980) on the scalar g",
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
