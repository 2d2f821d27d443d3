"""``zoedge doctor``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import options
from . import flags

if TYPE_CHECKING:
    from zoedge.runtime.doctor import Diagnosis

_SHOWN = 8  # operators and tensors that a line names


@click.command(cls=flags.SettingsCommand, epilog="Example: zoedge doctor bundle --provider cpu")
@click.argument("bundle", type=click.Path(path_type=Path))
@flags.data(required=False)
@flags.sequence_length
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def doctor(
    bundle: Path, data: str | None, sequence_length: int | None, as_json: bool, **given: object
) -> None:
    """Say what a provider makes of BUNDLE here: where nodes run, what is live, how fine the loss is."""
    from zoedge.runtime.doctor import doctor as examine

    settings = options.load_options(
        None, {name: value for name, value in given.items() if value is not None}
    ).options
    result = examine(bundle, data, settings, sequence_length=sequence_length)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(result).decode())
        return
    for name, value in _lines(result):
        click.echo(f"{name:<10}  {value}")


def _lines(found: Diagnosis) -> Iterator[tuple[str, str]]:
    hardware = f" ({found.hardware})" if found.hardware else ""
    yield "provider", f"{found.provider}{hardware}, passes in {found.precision}"
    if found.nodes is None:
        yield "nodes", "onnxruntime doesn't tell where they run (1.24 and later do)"
    for place, operators in sorted((found.nodes or {}).items()):
        yield "nodes", f"{sum(operators.values())} on {place}: {_most(operators)}"
    yield "trainable", _live(found)
    yield "loss", _loss(found)
    yield "eps", _eps(found)
    width = f" of {found.width} tokens" if found.width > 1 else ""
    yield "a pass", f"{1e3 * found.forward_seconds:.3g} ms for {found.rows} rows{width}"
    moved = (
        f"{found.restaged_bytes:,} bytes of rows a step"
        if found.restaged_bytes
        else "nothing: it reads in place"
    )
    yield "to device", moved
    for package, cost in found.missing.items():
        yield "missing", f"{package}: {cost}"


def _most(operators: dict[str, int]) -> str:
    """Return the operators that come most often."""
    order = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{count} {name}" for name, count in order[:_SHOWN])
    return told + (f" and {len(order) - _SHOWN} other kinds" if len(order) > _SHOWN else "")


def _live(found: Diagnosis) -> str:
    again = "the loss has its bits again" if found.restored else "the loss does not get its bits back"
    if not found.dead:
        return f"all {found.trainables} tensors reach the loss; put back, {again}"
    more = f" and {len(found.dead) - _SHOWN} more" if len(found.dead) > _SHOWN else ""
    names = ", ".join(found.dead[:_SHOWN])
    return f"{len(found.dead)} of {found.trainables} tensors don't reach the loss: {names}{more}; put back, {again}"


def _loss(found: Diagnosis) -> str:
    return f"rounding moves it by {found.loss_noise:.1e}; differences are clear from eps {found.least_eps:.1e} on"


def _eps(found: Diagnosis) -> str:
    if not math.isfinite(found.least_eps):
        return f"no eps was found whose losses differ; the usual is {found.usual_eps:g}"
    if found.eps == found.usual_eps:
        return f"{found.eps:g}, as usual"
    return f"give --eps {found.eps:g}: the usual {found.usual_eps:g} is lost in rounding"
