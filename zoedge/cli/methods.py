"""``zoedge methods``."""

from __future__ import annotations

import click


@click.command(epilog="Example: zoedge methods")
def methods() -> None:
    """List the methods of --method, with the settings used where you give none."""
    from ..methods import RECIPES
    from ..options import TuneOptions

    for recipe in RECIPES.values():
        d = recipe.defaults
        mark = " (default)" if recipe.name == TuneOptions().method else ""
        click.echo(f"{recipe.name}{mark}: {recipe.summary}")
        click.echo(f"    {recipe.source}")
        click.echo(f"    adapters: lr {d.lr_adapter:g}, eps {d.eps_adapter:g}")
        click.echo(f"    dense tensors: lr {d.lr_dense:g}, eps {d.eps_dense:g}")
        click.echo(f"    queries {d.queries}, lr-schedule {d.schedule}, steps {d.steps}")
