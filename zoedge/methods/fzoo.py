"""FZOO: one base loss and many one-sided Rademacher probes, normalised by their spread (arXiv 2506.09034)."""

from .core import Defaults, Recipe
from .estimators import OneSided
from .scalings import Spread

RECIPE = Recipe(
    name="fzoo",
    summary="one base loss and 8 one-sided Rademacher probes, normalised by their standard deviation",
    source="arXiv 2506.09034, algorithm 1",
    defaults=Defaults(
        lr_adapter=1e-2,
        lr_dense=5e-5,
        eps_adapter=1e-2,
        eps_dense=1e-3,
        queries=8,
        schedule="linear",
        steps=200,
    ),
    distribution="rademacher",
    estimator=OneSided,
    scalings=(Spread(),),
)
