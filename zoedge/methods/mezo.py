"""MeZO: two-point estimates along a Gaussian direction (arXiv 2305.17333)."""

from .core import Defaults, Length, Method, Recipe
from .options import DenseOptions
from .rules import Sgd
from .two_point import two_point


def build(options: DenseOptions) -> Method:
    """Return the method."""
    return two_point(options, Sgd(options.weight_decay))


RECIPE = Recipe(
    name="mezo",
    summary="two forwards along one Gaussian direction, plain SGD",
    source="arXiv 2305.17333, algorithm 1",
    # small and dense: lr and eps of the paper's tables 15 and 16, LoRA and full
    defaults=Defaults(
        activations=Length(lr=4e-3, eps=1e-2),
        factors=Length(lr=5e-4, eps=1e-2),
        small=Length(lr=1e-4, eps=1e-2),
        dense=Length(lr=1e-6, eps=1e-3),
        schedule="linear",
        steps=2000,
    ),
    options=DenseOptions,
    build=build,
)
