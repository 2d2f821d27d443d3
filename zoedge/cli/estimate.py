"""``zoedge estimate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import options
from . import flags

_MIB = 1 << 20

if TYPE_CHECKING:
    from zoedge.runtime.estimate import Estimate


@click.command(
    cls=flags.SettingsCommand, epilog="Example: zoedge estimate bundle --data reviews.csv --batch-size 32"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@flags.data(required=False)
@flags.sequence_length
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def estimate(
    bundle: Path, data: str | None, sequence_length: int | None, as_json: bool, **given: object
) -> None:
    """Say how much memory and time it would take to tune BUNDLE here."""
    from zoedge.runtime.estimate import estimate as measure

    settings = options.load_options(
        None, {name: value for name, value in given.items() if value is not None}
    ).options
    result = measure(bundle, data, settings, sequence_length=sequence_length)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(result).decode())
        return
    for name, value in _lines(result, data is not None).items():
        click.echo(f"{name:<12}  {value}")


def _device_line(result: Estimate) -> dict[str, str]:
    """Return what a device's own memory holds, where it has some."""
    if result.peak_device_bytes is None:
        return {}
    parts = (
        (result.device_trained_bytes, "what is trained"),
        (result.device_frozen_bytes, "frozen tensors"),
        (result.device_pass_bytes, "a pass"),
    )
    told = ", ".join(f"{size / _MIB:.0f} for {what}" for size, what in parts)
    peak = f"{result.peak_device_bytes / _MIB:.0f} MiB at the peak"
    return {"device": f"{peak} of the {result.device_memory}; the manifest lets expect {told}"}


def _lines(result: Estimate, on_data: bool) -> dict[str, str]:
    lines = {
        "memory": f"{result.peak_rss_bytes / _MIB:.0f} MiB resident at the peak, of which "
        f"{result.peak_anonymous_bytes / _MIB:.0f} MiB are anonymous (no file backs them)",
        **_device_line(result),
        "largest pass": f"{result.largest_rows} rows"
        + (f" of {result.largest_width} tokens" if result.largest_width > 1 else ""),
        "step": f"{result.step_seconds:.3g} s: {result.passes:.1f} forward passes "
        f"{result.forward_seconds:.3g} s, moves {result.moves_seconds:.3g} s",
        "start": f"{result.start_seconds:.3g} s",
    }
    if result.solve_seconds:
        lines["head"] = f"{result.solve_seconds:.3g} s or more for solving it now and then"
    if result.evaluation_seconds:
        lines["evaluations"] = f"{result.evaluation_seconds:.3g} s"
    beside = "" if on_data else ", without evaluations and a new head (give --data)"
    lines["run"] = f"{result.total_seconds:.0f} s for {result.steps} steps{beside}"
    return lines
