"""``zoedge adapter``."""

from __future__ import annotations

from pathlib import Path

import click

from . import flags


@click.command(epilog="Example: zoedge adapter run -o tuned.onnx_adapter")
@click.argument("run", type=click.Path(path_type=Path))
@flags.output(
    "NAME.onnx_adapter for onnxruntime, or a folder or NAME.safetensors (for PEFT where it has the kind)"
)
@flags.which
def adapter(run: Path, output: Path, which: str | None) -> None:
    """Write the adapter that RUN tuned."""
    from zoedge.runtime.outputs import write_adapter_files
    from zoedge.runtime.run.run_folder import Run

    opened = Run.open(run)
    weights = opened.weights(which)
    left_out = write_adapter_files(opened.bundle(), weights, output)
    click.echo(f"{output} holds {len(weights) - len(left_out)} tensors")
    if left_out:
        click.echo(
            f"Left out, as the format has no place for them: {', '.join(left_out)}; zoedge merge keeps them",
            err=True,
        )
