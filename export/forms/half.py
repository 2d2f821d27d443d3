"""The graphs of a bundle with every stored tensor as an input, in float16 up to the logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from zoedge.counterparts import FLOAT16, INPUTS, counterpart, has
from zoedge.manifest import LOSS_FILE, PREFIX_FILE, SUFFIX_FILE, Manifest

from ..assemble import Assembled
from ..exported import Exported
from ..session import Session
from ..surgery.half import to_half
from ..surgery.rounded import rounding_each
from .base import FormGraphs
from .counterparts import Counterpart, input_graphs
from .same import SHAPES, counterparts_agree

_TOLERANCE = 3e-2  # of the largest loss or feature: float16 has 11 bits, and errors add up over layers


def build(exported: Exported, assembled: Assembled, manifest: Manifest) -> FormGraphs | None:
    """Return them; None where the bundle has none in float32."""
    if not has(manifest.files, INPUTS):
        return None
    made = [_half(each, assembled) for each in input_graphs(exported, assembled, manifest)]
    return FormGraphs(
        {each.file: each.model for each in made},
        partial(_agree, made=made),
        f"the graphs in float16 don't give the losses of {LOSS_FILE} to {100 * _TOLERANCE:.0f} % and are left out: "
        "passes on a GPU are in float32",
    )


def _agree(
    folder: Path, exported: Exported, manifest: Manifest, tolerance: float, *, made: Sequence[Counterpart]
) -> bool:
    """Return whether onnxruntime opens every graph, and what they compute agrees; predictions show no more."""
    for each in made:
        Session(folder / each.file, each.file, prepack=False)
    shown = [each for each in made if each.stand_in is not None]
    return counterparts_agree(
        folder, exported, manifest, tolerance, made=shown, least=_TOLERANCE, shapes=SHAPES[:1]
    )


def _half(made: Counterpart, assembled: Assembled) -> Counterpart:
    crossing: set[str] = set()
    if assembled.stages is not None and made.original in (PREFIX_FILE, SUFFIX_FILE):
        # what is an output as well stays in the type that outputs have
        outputs = {value.name for value in assembled.stages.suffix.graph.output}
        crossing = set(assembled.stages.crossing) - outputs
    model = to_half(made.model, made.tensors, crossing)
    file = counterpart(made.original, FLOAT16, predictions=made.predictions)
    if made.predictions:
        return made._replace(file=file, model=model)
    stored = {value.name: int(value.type.tensor_type.elem_type) for value in made.model.graph.input}
    return made._replace(file=file, model=model, stand_in=rounding_each(model, stored))
