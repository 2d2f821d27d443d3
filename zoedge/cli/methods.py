"""``zoedge methods``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..methods import Length, Recipe


@click.command(epilog="Example: zoedge methods")
def methods() -> None:
    """List the methods of --method, with the settings used where you give none."""
    from ..methods import RECIPES
    from ..options import TuneOptions
    from ..settings import facts, flag

    for recipe in RECIPES.values():
        d = recipe.defaults
        mark = " (default)" if recipe.name == TuneOptions().method else ""
        click.echo(f"{recipe.name}{mark}: {recipe.summary}")
        click.echo(f"    {recipe.source}")
        for kind, length in _lengths(recipe):
            click.echo(f"    {kind}: lr {length.lr:g}, eps {length.eps:g}")
        click.echo(f"    lr-schedule {d.schedule}, steps {d.steps}")
        values = [(flag(name), getattr(recipe.options(), name)) for name in facts(recipe.options)]
        click.echo("    " + ", ".join(n if value is None else f"{n} {value}" for n, value in values))
        method = recipe.build(recipe.options())
        click.echo(f"    forward passes of a batch per step: {method.told_points}")
        click.echo(f"    memory beside what is tuned: {method.memory}")


def _lengths(recipe: Recipe) -> Iterator[tuple[str, Length]]:
    """Yield what is moved, in the words of --lora-space, and the step that suits it."""
    defaults = recipe.defaults
    if defaults.activations is not None:
        yield "LoRA, activations", defaults.activations
    yield "LoRA, factors", defaults.factors
    yield "small dense tensors", defaults.small
    yield "large dense tensors", defaults.dense
