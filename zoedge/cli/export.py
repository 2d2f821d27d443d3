"""``zoedge export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from ..adapters import ADAPTERS
from ..manifest import Quantize
from . import flags


@click.command(
    cls=flags.AdapterCommand,
    epilog="Example: zoedge export ./minilm -o bundle --labels bad,good --train lora",
)
@click.argument("model")
@flags.output("the bundle's folder; it must not exist")
@click.option("--task", help="what to train for; read from the model where it says")
@click.option(
    "--train",
    multiple=True,
    help=f"full, {', '.join(ADAPTERS)}, bitfit, norm, head or a name pattern; repeat to combine, or lora,head",
)
@click.option("--target-modules", help="which modules get branches, like q_proj,v_proj")
@click.option(
    "--quantize",
    type=click.Choice(get_args(Quantize)),
    default="none",
    show_default=True,
    help="how to store frozen matrices: int8 is faster, int4 smaller",
)
@click.option("--max-seq-length", type=click.IntRange(min=1), help="longest text in tokens")
@click.option("--labels", help="class names, like bad,good")
@click.option("--template", help='classify by label words, like "{text} It was {label}"')
@click.option("--output-name", help=".onnx files: the output that the loss is computed from")
@click.option("--loss", help=".onnx files: cross-entropy, mse or bce-with-logits")
@click.option(
    "--exporter",
    type=click.Choice(("torch", "optimum")),
    default="torch",
    show_default=True,
    help="Hugging Face models: what turns them into ONNX",
)
@click.option("--revision", help="branch, tag or commit on the hub")
def export(
    model: str,
    output: Path,
    train: tuple[str, ...],
    target_modules: str | None,
    labels: str | None,
    **settings: Any,
) -> None:
    """Make a bundle from MODEL: a hub id, a Hugging Face folder, an .onnx file or a folder with one."""
    from zoedge.export import to_bundle

    from .summary import bundle_lines

    given = {name: value for name, value in settings.items() if value is not None}
    for name, text in (("target_modules", target_modules), ("labels", labels)):
        if text is not None:
            given[name] = _listed(text)
    if train:
        given["train"] = tuple(part for entry in train for part in _listed(entry))
    bundle = to_bundle(model, output, **given, say=lambda text: click.echo(text, err=True))
    click.echo("\n".join(bundle_lines(bundle)))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
