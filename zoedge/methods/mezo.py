"""MeZO: two-point estimates along a Gaussian direction (arXiv 2305.17333)."""

from .core import Defaults, Recipe
from .estimators import TwoPoint

RECIPE = Recipe(
    name="mezo",
    summary="two forwards along one Gaussian direction, plain SGD",
    source="arXiv 2305.17333, algorithm 1",
    # lr and eps of the paper's tables 15 and 16, LoRA and full
    defaults=Defaults(
        lr_adapter=1e-4,
        lr_dense=1e-6,
        eps_adapter=1e-2,
        eps_dense=1e-3,
        queries=1,
        schedule="constant",
        steps=2000,
    ),
    distribution="gaussian",
    estimator=TwoPoint,
)
