"""The loss graph with its trained matrices on the left of their products: faster for passes of few rows."""

from __future__ import annotations

from functools import partial

from zoedge.manifest import FEW_ROWS_FILE, LOSS_FILE, Manifest

from ..assemble import Assembled
from ..exported import Exported
from ..stages import StageGraphs
from ..surgery.few_rows import few_rows_model
from ..surgery.graph import Graph
from ..surgery.linears import find_linears
from ..surgery.overridable import make_overridable
from .agreement import losses_agree
from .base import FormGraphs


def build(exported: Exported, assembled: Assembled, manifest: Manifest) -> FormGraphs | None:
    """Return the graph, where whole matrices are trained and no whole layer comes before them."""
    if manifest.branches or _has_layers(assembled.stages):
        return None
    trained = {row.name for row in manifest.trainable}
    model, matrices = few_rows_model(assembled.loss, trained)
    if not matrices:
        return None
    make_overridable(model, trained)
    return FormGraphs(
        {FEW_ROWS_FILE: model},
        partial(losses_agree, file=FEW_ROWS_FILE, tensors=matrices),
        f"{FEW_ROWS_FILE}, with trained matrices on the left, can't be shown to give the losses of {LOSS_FILE} and "
        "is left out: passes of few rows may take longer, with the same results",
    )


def _has_layers(stages: StageGraphs | None) -> bool:
    """Whether a layer comes before the first trained tensor: rotary embeddings are no layer."""
    return stages is not None and stages.prefix is not None and bool(find_linears(Graph(stages.prefix)))
