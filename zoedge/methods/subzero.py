"""SubZero: two-point estimates along low-rank directions U Z V^T, U and V kept for a window (arXiv 2410.08989)."""

from .core import Defaults, Length, Recipe
from .estimators import TwoPoint

RECIPE = Recipe(
    name="subzero",
    summary="two forwards along a low-rank direction U Z V^T; U and V are drawn anew every --refresh steps",
    source="arXiv 2410.08989, algorithm 1, directions scaled to a dense direction's norm",
    defaults=Defaults(
        activations=None,
        factors=Length(lr=2e-5, eps=1e-3),
        small=Length(lr=1e-4, eps=1e-3),
        dense=Length(lr=1e-6, eps=1e-3),
        queries=1,
        schedule="constant",
        steps=2000,
    ),
    distribution="gaussian",
    estimator=TwoPoint,
    low_rank=True,
)
