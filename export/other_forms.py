"""The loss graph in other forms, which a run takes where they are faster: written where they compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from msgspec import structs

from zoedge.manifest import FEW_ROWS_FILE, LOSS_FILE, PREFIX_FILE, SUFFIX_FILE, Manifest, Stages

from .assemble import Assembled
from .exported import Exported
from .external import write_graph
from .stages import StageGraphs
from .surgery.few_rows import few_rows_model
from .surgery.graph import Graph
from .surgery.linears import find_linears
from .surgery.overridable import make_overridable
from .tensor_writer import Written
from .verify import COARSE_TOLERANCE, TOLERANCE
from .verify_few_rows import few_rows_agree
from .verify_stages import stages_agree


def write_other_forms(
    folder: Path,
    exported: Exported,
    assembled: Assembled,
    manifest: Manifest,
    weights: Written,
    *,
    coarse: bool,
    say: Callable[[str], None],
) -> Manifest:
    """Write what there is, and return the manifest that says so.

    Two parts, where something comes before the first trained tensor or LoRA branches let probes share a pass; and
    where no whole layer comes before it, one graph with its trained matrices on the left.

    Args:
        folder: of the bundle, with all but these files.
        exported, assembled, manifest: what it holds.
        weights: where tensors lie in the weights file.
        coarse: the source computes with float16 or quantised activations.
        say: is told which form doesn't compute the same and is left out.
    """
    tolerance = COARSE_TOLERANCE if coarse else TOLERANCE
    if not manifest.branches and not _has_layers(assembled.stages):
        manifest = _write_few_rows(folder, exported, assembled.loss, manifest, weights, tolerance, say)
    if assembled.stages is not None:
        before = manifest
        manifest = _write_stages(folder, exported, assembled.stages, manifest, weights, tolerance)
        if manifest is before:
            say(
                f"the loss graph isn't kept in two parts ({PREFIX_FILE}, {SUFFIX_FILE}), which don't give its losses "
                "for several probes at once: steps may take longer, with the same results"
            )
    return manifest


def _has_layers(stages: StageGraphs | None) -> bool:
    """Whether a layer comes before the first trained tensor: rotary embeddings are no layer."""
    return stages is not None and stages.prefix is not None and bool(find_linears(Graph(stages.prefix)))


def _write_stages(
    folder: Path,
    exported: Exported,
    stages: StageGraphs,
    manifest: Manifest,
    weights: Written,
    tolerance: float,
) -> Manifest:
    graphs = {PREFIX_FILE: stages.prefix, SUFFIX_FILE: stages.suffix}
    files = {
        name: write_graph(folder, name, graph, weights, None)
        for name, graph in graphs.items()
        if graph is not None
    }
    if not stages_agree(folder, exported, manifest, tolerance):
        for name in files:
            (folder / name).unlink()
        return manifest
    return structs.replace(_with(manifest, files), stages=Stages(crossing=stages.crossing))


def _write_few_rows(
    folder: Path,
    exported: Exported,
    loss: onnx.ModelProto,
    manifest: Manifest,
    weights: Written,
    tolerance: float,
    say: Callable[[str], None],
) -> Manifest:
    trained = {row.name for row in manifest.trainable}
    model, matrices = few_rows_model(loss, trained)
    if not matrices:
        return manifest
    make_overridable(model, trained)
    files = {FEW_ROWS_FILE: write_graph(folder, FEW_ROWS_FILE, model, weights, None)}
    if not few_rows_agree(folder, exported, manifest, matrices, tolerance):
        (folder / FEW_ROWS_FILE).unlink()
        say(
            f"{FEW_ROWS_FILE}, with trained matrices on the left, can't be shown to give the losses of {LOSS_FILE} and "
            "is left out: passes of few rows may take longer, with the same results"
        )
        return manifest
    return _with(manifest, files)


def _with(manifest: Manifest, files: dict[str, str]) -> Manifest:
    return structs.replace(manifest, files=dict(sorted((manifest.files | files).items())))
