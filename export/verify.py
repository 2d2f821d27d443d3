"""Proves that a bundle computes what its source computes, before it gets its final name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoedge.errors import ZoedgeError
from zoedge.manifest import ADAPTED_MODEL_FILE, LOSS_FILE, MERGED_MODEL_FILE, MODEL_FILE, Head, Manifest
from zoedge.names import FEATURES, LABELS, in_graph

from .adapters.base import adapted_source
from .checks import check_close, draw_labels, draw_positions, label_logits
from .exported import Exported
from .numpy_losses import NUMPY_LOSSES
from .session import Session

Array = np.ndarray[Any, Any]

SHAPES = ((2, 8), (3, 17), (1, 5))  # (batch, length) of fresh inputs
TOLERANCE = 1e-4  # of the largest value: the same sums in another order
COARSE_TOLERANCE = (
    3e-2  # where activations are rounded to 8 or 16 bits, and one more or less ulp can flip a step
)
QUANTIZED_TOLERANCE = 0.5  # where export rounded the matrices: only what is plainly broken is refused
LOSS_TOLERANCE = 1e-5  # of the largest loss or logit: float32 against float64 from the same logits


def verify_values(folder: Path, exported: Exported, manifest: Manifest, *, coarse: bool) -> float:
    """Compare the graphs in ``folder`` with the source on fresh inputs of several shapes.

    Args:
        folder: holds the graphs and tensors of a bundle.
        exported: the source, with its reference.
        manifest: of the bundle.
        coarse: the source computes with float16 or quantised activations.

    Returns:
        How far logits, or the features of a fresh head, are from the source's at most: root mean square of the
        difference over that of the source's.

    Raises:
        InputError: onnxruntime can't run a graph.
        ZoedgeError: an output differs from the source's.
    """
    tolerance = COARSE_TOLERANCE if coarse else TOLERANCE
    if exported.quantization is not None:
        tolerance = QUANTIZED_TOLERANCE
    plain, cases = _cases(exported), _cases(adapted_source(exported, manifest.branches))
    sizes = _sizes([wanted for _, wanted in cases])
    errors = []
    for file in (MODEL_FILE, ADAPTED_MODEL_FILE, MERGED_MODEL_FILE):
        if not (folder / file).exists():
            continue
        session = Session(folder / file, file, ours=False)
        for inputs, wanted in plain if file == MODEL_FILE else cases:
            got = session.run(inputs)
            for name in sorted(wanted.keys() & got.keys()):
                check_close(
                    got[name], wanted[name], tolerance, f"{name} of {file}", scale=sizes.get(name, 0.0)
                )
            if exported.logits in got:
                errors.append(_distance(got[exported.logits], wanted[exported.logits]))
        del session
    session = Session(folder / LOSS_FILE, LOSS_FILE)
    rng = np.random.default_rng(1)
    for inputs, wanted in cases:
        errors.append(_check_loss(session, exported, manifest, inputs, wanted, rng, tolerance, sizes))
    return max(errors)


def _cases(exported: Exported) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    rng = np.random.default_rng(0)
    inputs = [exported.sample_inputs(rng, batch, length) for batch, length in SHAPES]
    return [(case, exported.reference(case)) for case in inputs]


def _sizes(runs: list[Mapping[str, Array]]) -> dict[str, float]:
    """Return each output's largest value of all runs: one row's alone may be near 0."""
    sizes: dict[str, float] = {}
    for run in runs:
        for name, array in run.items():
            if array.dtype.kind == "f":
                known = np.abs(array[np.isfinite(array)].astype(np.float64)).max(initial=0.0)
                sizes[name] = max(sizes.get(name, 0.0), float(known))
    return sizes


def _check_loss(
    session: Session,
    exported: Exported,
    manifest: Manifest,
    inputs: Mapping[str, Array],
    source: Mapping[str, Array],
    rng: np.random.Generator,
    tolerance: float,
    sizes: Mapping[str, float],
) -> float:
    size = sizes.get(exported.logits, 0.0)
    inputs, source = exported.rows_first(inputs), exported.rows_first(source)
    inputs = {**inputs, **draw_positions(manifest, inputs, rng)}
    wanted = label_logits(manifest, source[exported.logits], inputs)
    labels = draw_labels(manifest, wanted, rng)
    got = session.run({**inputs, **labels})
    used = got.get("logits", wanted)
    if "logits" in got:
        check_close(got["logits"], wanted, tolerance, f"logits of {LOSS_FILE}", scale=size)
    else:
        _check_predictions(got["predictions"], wanted, tolerance)
    loss, weight = NUMPY_LOSSES[manifest.loss](used, labels[in_graph(LABELS)])
    scale = max(1.0, float(np.abs(used).max()))
    check_close(
        got["loss"],
        loss,
        LOSS_TOLERANCE if "logits" in got else tolerance,
        f"loss of {LOSS_FILE}",
        scale=scale,
    )
    check_close(got["weight"], weight, 0.0, f"weight of {LOSS_FILE}")
    if manifest.head is not None:
        if in_graph(FEATURES) in source:  # the logits of a fresh head of zeros would agree with anything
            check_close(
                got[manifest.head.features], source[in_graph(FEATURES)], tolerance, f"features of {LOSS_FILE}"
            )
            used, wanted = got[manifest.head.features], source[in_graph(FEATURES)]
        _check_head(got, exported, manifest.head)
    return _distance(used, wanted)


def _distance(got: Array, wanted: Array) -> float:
    finite = np.isfinite(wanted)
    size = float(np.square(wanted[finite], dtype=np.float64).sum())
    return (
        math.sqrt(float(np.square(got[finite] - wanted[finite], dtype=np.float64).sum()) / size)
        if size
        else 0.0
    )


def _check_predictions(got: Array, logits: Array, tolerance: float) -> None:
    """Compare the largest logits, wherever they lead the others by more than rounding."""
    top = np.sort(logits, axis=-1)[..., -2:]
    clear = top[..., 1] - top[..., 0] > 2 * tolerance * max(1e-3, float(np.abs(logits).max()))
    if not np.array_equal(got[clear], logits.argmax(axis=-1)[clear]):
        raise ZoedgeError(f"predictions of {LOSS_FILE} are not the source's: the bundle is not written")


def _check_head(got: Mapping[str, Array], exported: Exported, head: Head) -> None:
    weight = exported.weights[head.weight].astype(np.float64)
    logits = got[head.features] @ (weight if head.transposed else weight.T)
    if head.bias is not None:
        logits = logits + exported.weights[head.bias]
    check_close(got["logits"], logits, TOLERANCE, f"{head.features} @ {head.weight} of {LOSS_FILE}")
