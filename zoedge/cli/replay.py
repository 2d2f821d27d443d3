"""``zoedge replay``."""

from __future__ import annotations

from pathlib import Path

import click

from . import flags


@click.command(epilog="Example: zoedge replay run -o rebuilt")
@click.argument("run", type=click.Path(path_type=Path))
@flags.output("a new folder")
@click.option("--steps", type=click.IntRange(min=0), help="replay only the first steps  [default: all]")
@flags.provider
def replay(run: Path, output: Path, steps: int | None, provider: str) -> None:
    """Rebuild the weights of RUN from its bundle and its journal, bit for bit."""
    from zoedge.runtime.replay import replay as rebuild

    result = rebuild(run, output, steps=steps, provider=provider)
    click.echo(f"{result.path} holds the weights after {result.steps} steps")
    if result.torn:
        click.echo(f"The journal's last {result.torn} bytes are torn and were left out", err=True)
