"""FZOO: one base loss and many one-sided Rademacher probes, normalised by their spread (arXiv 2506.09034)."""

from .core import Defaults, Length, Recipe
from .estimators import OneSided
from .scalings import Spread

RECIPE = Recipe(
    name="fzoo",
    summary="one base loss and many one-sided Rademacher probes, normalised by their standard deviation",
    source="arXiv 2506.09034, algorithm 1",
    defaults=Defaults(
        activations=Length(lr=0.05, eps=0.015),
        factors=Length(lr=0.015, eps=0.015),
        small=Length(lr=0.05, eps=0.015),
        dense=Length(lr=1e-3, eps=1e-3),
        queries=16,
        schedule="linear",
        steps=200,
    ),
    distribution="rademacher",
    estimator=OneSided,
    scalings=(Spread(),),
    least_queries=2,  # one number has no spread
)
