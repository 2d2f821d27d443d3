"""``zoedge eval``."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import click

from . import flags


@click.command("eval", epilog="Example: zoedge eval run --data reviews.csv --json")
@click.argument("path", metavar="BUNDLE|RUN", type=click.Path(path_type=Path))
@flags.data(required=True)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@flags.forward
def evaluate(path: Path, data: str, as_json: bool, **settings: Any) -> None:
    """Print the loss and the metrics of a bundle or a run."""
    from zoedge.runtime.evaluate import evaluate as measure
    from zoedge.runtime.run.certainty import number_text

    result = measure(path, data, say=partial(click.echo, err=True), **settings)
    if as_json:
        # JSON has no NaN
        click.echo(json.dumps({k: v if math.isfinite(v) else None for k, v in result.items()}))
        return
    width = max(map(len, result))
    for name, value in result.items():
        click.echo(
            f"{name:<{width}}  {number_text(value)}"
            if isinstance(value, float)
            else f"{name:<{width}}  {value}"
        )
