"""The graphs of a bundle with every stored tensor as an input without a value, for devices with own memory."""

from __future__ import annotations

from functools import partial

from zoedge.manifest import LOSS_FILE, Manifest

from ..assemble import Assembled
from ..exported import Exported
from ..surgery.as_inputs import control_flow
from .base import FormGraphs, never
from .counterparts import input_graphs
from .same import counterparts_agree


def build(exported: Exported, assembled: Assembled, manifest: Manifest) -> FormGraphs:
    """Return the counterparts of every graph of the bundle."""
    made = input_graphs(exported, assembled, manifest)
    op = next(filter(None, (control_flow(each.model) for each in made)), "")
    if op:
        return FormGraphs(
            {}, never, f"no graphs with weights as inputs are written, as the model has {op}: {_REST}"
        )
    return FormGraphs(
        {each.file: each.model for each in made},
        partial(counterparts_agree, made=made),
        f"the graphs with weights as inputs can't be shown to give the losses of {LOSS_FILE} and are left out: {_REST}",
    )


_REST = "the bundle runs on the CPU alone"
