"""``zoedge merge``."""

from __future__ import annotations

from pathlib import Path

import click

from ..manifest import Manifest, said_apart
from . import flags


@click.command(epilog="Example: zoedge merge run -o tuned && ls tuned")
@click.argument("run", type=click.Path(path_type=Path))
@flags.output("a new folder")
@flags.which
def merge(run: Path, output: Path, which: str | None) -> None:
    """Write what RUN tuned as a plain ONNX folder with its tensors as safetensors."""
    from zoedge.runtime.outputs import write_merged as write
    from zoedge.runtime.run.run_folder import Run

    opened = Run.open(run)
    weights = opened.weights(which)
    write(opened.bundle(), weights, output, columns=opened.facts.columns)
    said = _said(opened.bundle().manifest, floats=(output / "model.safetensors").exists())
    if said:
        click.echo(said, err=True)
    click.echo(f"{output} holds {', '.join(sorted(p.name for p in output.iterdir()))}")


def _said(manifest: Manifest, *, floats: bool) -> str:
    """Return what a user should know of a merged folder; ``floats`` tells whether it has a float file."""
    quantization, apart = manifest.quantization, said_apart(manifest.kept_apart)
    if quantization is not None and floats:
        return (
            f"model.onnx keeps the {quantization.kind} matrices and the branches beside them; model.safetensors is "
            "float32, made from the rounded matrices, so merge into the source by zoedge adapter where you have it"
        )
    if not apart:
        return ""
    files = "" if manifest.source.kind == "onnx" else "; other libraries take what zoedge adapter writes"
    return f"model.onnx keeps branches as products: {apart}{files}"
