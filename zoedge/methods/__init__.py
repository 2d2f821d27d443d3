"""The methods: each is a ``Recipe`` in a file of its own and one line in ``RECIPES``."""

from __future__ import annotations

from ..errors import InputError, near
from . import fzoo, meazo, mezo, subzero
from .core import (
    Defaults,
    Directions,
    Estimator,
    Length,
    Method,
    Move,
    Point,
    Recipe,
    Scaling,
    State,
    Told,
    Update,
)

__all__ = [
    "RECIPES",
    "Defaults",
    "Directions",
    "Estimator",
    "Length",
    "Method",
    "Move",
    "Point",
    "Recipe",
    "Scaling",
    "State",
    "Told",
    "Update",
    "find",
]

RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in (fzoo, meazo, mezo, subzero)}


def find(name: str) -> Recipe:
    """Return the recipe of a method.

    Raises:
        InputError: no method has that name.
    """
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise InputError(f"--method {name!r} is not a method{near(name, RECIPES)} (methods: {known})")
    return RECIPES[name]
