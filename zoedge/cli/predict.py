"""``zoedge predict``."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from . import flags


class Texts(click.Command):
    """A command whose arguments are texts, which may look like flags."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and say of a flag that doesn't exist how a text that begins with a dash is given."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.possibilities:
                raise
            text = next((arg for arg in given if arg.startswith(error.option_name)), error.option_name)
            remedy = f"zoedge predict RUN -- {shlex.quote(text)}"
            raise click.UsageError(
                f"{error.message} A text that begins with a dash stands behind --: {remedy}", ctx
            ) from error


@click.command(cls=Texts, epilog='Example: zoedge predict run "A fine film." "Dull from the start."')
@click.argument("path", metavar="BUNDLE|RUN", type=click.Path(path_type=Path))
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@flags.data(required=False)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="text generation: tokens",
)
@flags.forward
def predict(path: Path, texts: tuple[str, ...], data: str | None, **settings: Any) -> None:
    """Print a prediction for each TEXT or each row of --data, one JSON object per line.

    A text is asked in the form of the rows that the run was tuned on; for models of images, TEXT is the path of one.
    """
    if bool(texts) == (data is not None):
        raise InputError(
            "give either texts or --data: zoedge predict RUN TEXT... or zoedge predict RUN --data DATA"
        )
    from zoedge.runtime.evaluate import predict as predictions

    for row in predictions(path, texts=texts, data=data, say=partial(click.echo, err=True), **settings):
        click.echo(json.dumps(row, ensure_ascii=False))
