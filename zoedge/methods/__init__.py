"""The methods: each is a ``Recipe`` in a file of its own and one line in ``RECIPES``."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from ..errors import InputError, near
from .core import (
    Decision,
    Defaults,
    DenseStep,
    Duration,
    Estimator,
    Length,
    Method,
    MethodOptions,
    Move,
    Point,
    Recipe,
    Rule,
    Scaling,
    State,
    Tensor,
    Told,
    Update,
)
from .directions import Dense, Directions, LazyLowRank, LowRank

__all__ = [
    "RECIPES",
    "Decision",
    "Defaults",
    "Dense",
    "DenseStep",
    "Directions",
    "Duration",
    "Estimator",
    "LazyLowRank",
    "Length",
    "LowRank",
    "Method",
    "MethodOptions",
    "Move",
    "Point",
    "Recipe",
    "Rule",
    "Scaling",
    "State",
    "Tensor",
    "Told",
    "Update",
    "find_recipe",
    "having",
]

# in the order in which they are listed
_MODULES = (
    "adazeta",
    "dizo",
    "fzoo",
    "helene",
    "lezo",
    "lozo",
    "lozo_m",
    "meazo",
    "mezo",
    "sparse_mezo",
    "subzero",
    "zo_adam",
    "zo_sgd_cons",
    "zo_sgd_momentum",
    "zo_sgd_sign",
)
_EVERY = [cast("Recipe", import_module(f"{__name__}.{module}").RECIPE) for module in _MODULES]
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _EVERY}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a method.

    Raises:
        InputError: no method has that name.
    """
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise InputError(f"--method {name!r} is not a method{near(name, RECIPES)} (methods: {known})")
    return RECIPES[name]


def having(setting: str) -> list[Recipe]:
    """Return the methods that have a setting of their own of that name."""
    return [recipe for recipe in RECIPES.values() if setting in recipe.options.__struct_fields__]
