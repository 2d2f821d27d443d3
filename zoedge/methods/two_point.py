"""What the methods of two-point estimates along dense directions have in common."""

from __future__ import annotations

from .core import Method, Rule, Scaling
from .directions import Dense
from .estimators import TwoPoint
from .options import Options


def two_point(options: Options, rule: Rule, *scalings: Scaling) -> Method:
    """Return the method that estimates by central differences and goes on with a rule."""
    return Method(Dense(options.directions), TwoPoint(options.queries), rule, scalings, options.support)
