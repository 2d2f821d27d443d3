"""The loss graph in two parts: kept where they compute what the whole does, with two points at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoedge.manifest import LOSS_FILE, PREFIX_FILE, SUFFIX_FILE, Manifest, Stages
from zoedge.tensor_file import map_tensors

from ..assemble import Assembled
from ..checks import check_close, draw_labels, draw_positions, label_logits
from ..exported import Exported
from ..session import Session
from .base import FormGraphs

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

_POINTS = 2
_SHAPES = ((3, 9), (1, 5))  # (batch, length)


def build(exported: Exported, assembled: Assembled, manifest: Manifest) -> FormGraphs | None:
    """Return both parts, where something comes before the first trained tensor or points can share a pass."""
    stages = assembled.stages
    if stages is None:
        return None
    graphs = {PREFIX_FILE: stages.prefix, SUFFIX_FILE: stages.suffix}
    return FormGraphs(
        {file: graph for file, graph in graphs.items() if graph is not None},
        stages_agree,
        f"the loss graph isn't kept in two parts ({PREFIX_FILE}, {SUFFIX_FILE}), which don't give its losses for "
        "several points at once: steps may take longer, with the same results",
        {"stages": Stages(crossing=stages.crossing)},
    )


def stages_agree(folder: Path, exported: Exported, manifest: Manifest, tolerance: float) -> bool:
    """Return whether prefix and suffix together give the losses of the whole graph.

    They don't where rows are not independent of each other or not the leading axis inside the model; such a
    model is tuned with the whole graph.

    Args:
        folder: holds the graphs and tensors of a bundle.
        exported: the source, for inputs.
        manifest: of the bundle.
        tolerance: of the largest loss.

    Raises:
        ZoedgeError: other losses, or onnxruntime can't run a graph.
    """
    points = [_factors(folder, manifest, seed) for seed in range(_POINTS)]
    whole = Session(folder / LOSS_FILE, LOSS_FILE, prepack=False)
    inputs = [_inputs(exported, manifest, batch, length) for batch, length in _SHAPES]
    wanted = [[whole.run({**given, **factors})["loss"] for factors in points] for given in inputs]
    del whole
    stacked = {name: np.stack([factors[name] for factors in points]) for name in points[0]}
    crossing = [_crossing(folder, given) for given in inputs]
    if any(array.ndim == 0 for values in crossing for array in values.values()):
        return False  # one number for all rows, as the condition of an If may be
    suffix = Session(folder / SUFFIX_FILE, SUFFIX_FILE, prepack=False)
    for given, values, losses in zip(inputs, crossing, wanted, strict=True):
        tiled = {name: _tiled(array, len(points)) for name, array in {**given, **values}.items()}
        got = suffix.run({**tiled, **stacked})["loss"]
        check_close(got, np.concatenate(losses), tolerance, f"loss of {SUFFIX_FILE}", scale=1.0)
    return True


def _factors(folder: Path, manifest: Manifest, seed: int) -> Arrays:
    """Return values for every LoRA factor under which branches matter."""
    rng = np.random.default_rng(seed)
    factors: Arrays = {}
    for branch in manifest.branches:
        for name in branch.tensors.values():
            tensors = map_tensors(folder / next(p.file for p in manifest.parameters if p.name == name))
            factors[name] = (0.05 * rng.standard_normal(tensors[name].shape)).astype(np.float32)
    return factors


def _inputs(exported: Exported, manifest: Manifest, batch: int, length: int) -> Arrays:
    rng = np.random.default_rng(6)
    inputs = exported.sample_inputs(rng, batch, length)
    logits = exported.rows_first(exported.reference(inputs))[exported.logits]
    inputs = exported.rows_first(inputs)
    inputs = {**inputs, **draw_positions(manifest, inputs, rng)}
    return {**inputs, **draw_labels(manifest, label_logits(manifest, logits, inputs), rng)}


def _crossing(folder: Path, inputs: Mapping[str, Array]) -> Arrays:
    path = folder / PREFIX_FILE
    return Session(path, PREFIX_FILE, prepack=False, ours=False).run(inputs) if path.exists() else {}


def _tiled(array: Array, count: int) -> Array:
    return np.concatenate([array] * count)
