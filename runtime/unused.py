"""Settings that were given and decide nothing here, so that nobody waits for an effect of them.

They are said and not refused: one file of settings often serves several bundles and methods. A setting that
asks for what can't be had is an error, where it is looked up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from zoedge.adapters import lora_branches
from zoedge.manifest import Manifest
from zoedge.methods import Dense, Method, Recipe, having
from zoedge.options import FACTS, known_settings
from zoedge.settings import facts, flag


@dataclass(frozen=True)
class Circumstances:
    """What decides whether a setting matters.

    Attributes:
        manifest: the bundle's.
        recipe: the method's.
        method: the method.
        solved: whether a new head is solved in closed form.
        own_validation: whether the data has validation rows of its own.
        evaluates: whether there is anything to evaluate on.
        singly: whether there are tensors of which a share of the elements can be moved.
        points_per_pass: as asked for; None where it is measured.
    """

    manifest: Manifest
    recipe: Recipe
    method: Method
    solved: bool
    own_validation: bool
    evaluates: bool
    singly: bool
    points_per_pass: int | None = None


def unused(given: Collection[str], here: Circumstances) -> tuple[str, ...]:
    """Return a sentence for each given setting that has no effect."""
    return tuple(
        f"{flag(name)} has no effect here: {reason}"
        for name, reason in _reasons(here).items()
        if name in given
    )


def _reasons(here: Circumstances) -> dict[str, str]:
    """Return setting -> why it decides nothing, for all that don't."""
    head, name = here.manifest.head, here.recipe.name
    others = known_settings().keys() - FACTS.keys() - facts(here.recipe.options).keys()
    reasons = {other: f"{name} has no such setting, {_listed(having(other))}" for other in others}
    if not here.singly and here.method.directions.kind == Dense.kind:
        reasons["active_elements"] = "a small matrix moves in each LoRA branch, and nothing else"
    if head is None or not head.fresh:
        reasons["head_init"] = "the bundle has no new head"
    if not here.solved:
        reasons["head_refit_every"] = "no head is solved in closed form"
    if not lora_branches(here.manifest):
        reasons["lora_space"] = "the bundle has no LoRA branches"
    elif here.recipe.defaults.activations is None:
        reasons["lora_space"] = f"{name} has its own directions in LoRA branches"
    if here.manifest.stages is None or not here.manifest.stages.crossing:
        reasons["prefix_cache"] = "no layer lies before the first trained one"
    elif here.points_per_pass == 1:
        reasons["prefix_cache"] = "--points-per-pass 1 takes the whole graph"
    if here.manifest.text is None:
        reasons["truncation_side"] = "the bundle takes no text"
    if here.own_validation:
        reasons["val_size"] = "the data has a validation split"
    if not here.evaluates:
        reasons["eval_every"] = "there are no validation rows"
    return reasons


def _listed(recipes: Sequence[Recipe]) -> str:
    """Return "mezo has", or "fzoo and mezo have"."""
    *most, last = [recipe.name for recipe in recipes]
    return f"{', '.join(most)} and {last} have" if most else f"{last} has"
