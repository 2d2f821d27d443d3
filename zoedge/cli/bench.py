"""``zoedge bench``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import options
from . import flags

if TYPE_CHECKING:
    from zoedge.runtime.bench import Bench

_COLUMNS = ("per step", "median", "lower quartile", "upper quartile")


@click.command(
    cls=flags.SettingsCommand, epilog="Example: zoedge bench bundle --batch-size 8 --sequence-length 64"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@flags.sequence_length
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def bench(bundle: Path, sequence_length: int | None, as_json: bool, **given: object) -> None:
    """Say what a step of tuning BUNDLE costs here, part by part."""
    from zoedge.runtime.bench import bench as measure

    settings = options.load_options(
        None, {name: value for name, value in given.items() if value is not None}
    ).options
    result = measure(bundle, settings, sequence_length=sequence_length)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(result).decode())
        return
    _show(_rows(result))
    length = f" of {result.sequence_length} tokens" if result.sequence_length else ""
    click.echo(
        f"{result.steps} steps of {result.rows} rows{length}, a step is {result.ratio:.2f} times its floor"
    )
    click.echo(f"a move writes {result.written_elements:,} elements, {result.noise_ns:.2f} ns each")


def _rows(result: Bench) -> list[tuple[str, str, str, str]]:
    parts = {
        f"{result.passes} forward passes": result.forward,
        "moves": result.moves,
        "batching, journal": result.rest,
        "step": result.step,
        "floor: the passes alone": result.floor,
    }
    return [
        (name, _milliseconds(part.median), _milliseconds(part.lower), _milliseconds(part.upper))
        for name, part in parts.items()
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _show(rows: list[tuple[str, str, str, str]]) -> None:
    if not sys.stdout.isatty():
        for row in [_COLUMNS, *rows]:
            click.echo(f"{row[0]:<26}{row[1]:>14}{row[2]:>18}{row[3]:>18}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
