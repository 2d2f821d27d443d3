"""``zoedge inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InputError
from ..manifest import MANIFEST_FILE


@click.command(epilog="Example: zoedge inspect run/journal.zoj --records")
@click.argument("path", metavar="BUNDLE|RUN|JOURNAL", type=click.Path(path_type=Path))
@click.option(
    "--records", is_flag=True, help="print the records of a run or a journal, one JSON object per line"
)
def inspect(path: Path, records: bool) -> None:
    """Say what a bundle, a run or a journal holds."""
    from zoedge.runtime.run.journal import JOURNAL_FILE

    if records:
        journal = path / JOURNAL_FILE if path.is_dir() else path
        from .records import json_lines

        for line in json_lines(journal):
            click.echo(line)
    else:
        click.echo("\n".join(_lines(path)))


def _lines(path: Path) -> list[str]:
    from zoedge.bundle import Bundle
    from zoedge.runtime.run.run_folder import CONFIG_FILE, Run

    from . import summary

    if path.is_file():
        return summary.journal_lines(path)
    if (path / MANIFEST_FILE).is_file():
        return summary.bundle_lines(Bundle.open(path))
    if (path / CONFIG_FILE).is_file():
        return summary.run_lines(Run.open(path))
    what = f"has neither {MANIFEST_FILE} nor {CONFIG_FILE}" if path.exists() else "does not exist"
    raise InputError(f"{path} {what}: give a bundle, a run or a journal")
