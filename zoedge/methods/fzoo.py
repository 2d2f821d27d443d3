"""FZOO: one base loss and many one-sided Rademacher probes, normalised by their spread (arXiv 2506.09034)."""

from dataclasses import replace
from typing import Annotated

from .core import Defaults, Length, Method, Recipe
from .directions import Dense
from .estimators import OneSided
from .options import DISTRIBUTION, QUERIES, DenseOptions, Distribution
from .rules import Sgd
from .scalings import Spread


class FzooOptions(DenseOptions, frozen=True):
    """Many directions of signs; one alone would have no spread."""

    queries: Annotated[int, replace(QUERIES, least=2)] = 16
    directions: Annotated[Distribution, DISTRIBUTION] = "rademacher"


def build(options: FzooOptions) -> Method:
    """Return the method."""
    return Method(
        Dense(options.directions),
        OneSided(options.queries),
        Sgd(options.weight_decay),
        (Spread(),),
        options.support,
    )


RECIPE = Recipe(
    name="fzoo",
    summary="one base loss and many one-sided Rademacher probes, normalised by their standard deviation",
    source="arXiv 2506.09034, algorithm 1",
    defaults=Defaults(
        activations=Length(lr=0.05, eps=0.015),
        factors=Length(lr=0.015, eps=0.015),
        small=Length(lr=0.05, eps=0.015),
        dense=Length(lr=1e-3, eps=1e-3),
        schedule="linear",
        steps=200,
    ),
    options=FzooOptions,
    build=build,
)
