"""FZOO: one base loss and many one-sided Rademacher probes, normalised by their spread (arXiv 2506.09034)."""

from .core import Defaults, Recipe
from .estimators import OneSided
from .scalings import Spread

RECIPE = Recipe(
    name="fzoo",
    summary="one base loss and many one-sided Rademacher probes, normalised by their standard deviation",
    source="arXiv 2506.09034, algorithm 1",
    defaults=Defaults(
        lr_adapter=0.05,
        lr_dense=1e-3,
        eps_adapter=0.015,
        eps_dense=1e-3,
        queries=16,
        schedule="linear",
        steps=200,
    ),
    distribution="rademacher",
    estimator=OneSided,
    scalings=(Spread(),),
    least_queries=2,  # one number has no spread
)
