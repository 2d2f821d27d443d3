"""``zoedge merge``."""

from __future__ import annotations

from pathlib import Path

import click

from . import flags


@click.command(epilog="Example: zoedge merge run -o tuned && ls tuned")
@click.argument("run", type=click.Path(path_type=Path))
@flags.output("a new folder")
@flags.which
def merge(run: Path, output: Path, which: str | None) -> None:
    """Write what RUN tuned as a plain ONNX folder with its tensors as safetensors."""
    from zoedge.runtime.outputs import merge as write
    from zoedge.runtime.run.run_folder import Run

    opened = Run.open(run)
    weights = opened.weights(which)
    write(opened.bundle(), weights, output, columns=opened.facts.columns)
    quantization = opened.bundle().manifest.quantization
    if quantization is not None:
        click.echo(
            f"model.onnx keeps the {quantization.kind} matrices and the branches beside them; model.safetensors is "
            "float32, made from the rounded matrices, so merge into the source by zoedge adapter where you have it",
            err=True,
        )
    click.echo(f"{output} holds {', '.join(sorted(p.name for p in output.iterdir()))}")
