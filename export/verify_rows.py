"""Finds out whether the loss of a row depends on the rows beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoedge.manifest import LOSS_FILE, Manifest

from .exported import Exported
from .liveness import draw_inputs
from .session import Session
from .surgery.graph import Graph

Array = np.ndarray[Any, Any]

_SHAPE = (3, 9)  # (batch, length)
_TOLERANCE = 1e-3  # of the largest loss: below it, only the order of sums differs
_COARSE_TOLERANCE = 3e-2  # where activations are rounded, and one more or less ulp can flip a step
_ONE_SCALE = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")


def company(folder: Path, exported: Exported, manifest: Manifest, *, coarse: bool) -> str | None:
    """Return a sentence where a row's loss differs from what it is alone; None where it doesn't.

    Args:
        folder: holds the graphs and tensors of a bundle.
        exported: the source, for inputs.
        manifest: of the bundle.
        coarse: the source computes with float16 or quantised activations.
    """
    inputs = draw_inputs(exported, manifest, *_SHAPE)
    rows = len(next(iter(inputs.values())))
    session = Session(folder / LOSS_FILE, LOSS_FILE, prepack=False)
    together = session.run(inputs, ("loss",))["loss"].astype(np.float64)
    fixed = any(port.shape and isinstance(port.shape[0], int) for port in manifest.inputs)
    alone = np.array([_alone(session, inputs, row, rows, fixed=fixed) for row in range(rows)])
    error = float(np.abs(together - alone).max() / max(1.0, float(np.abs(alone).max())))
    op = _shared_scale(exported)
    if np.isnan(error) or error <= (_COARSE_TOLERANCE if coarse and op is None else _TOLERANCE):
        return None
    if op is not None:
        return (
            f"a row's loss depends a little on the rows beside it (by {error:.1e} here), as {op} rounds the "
            "activations of all rows by one scale"
        )
    return (
        f"a row's loss depends on the rows beside it (by {100 * error:.2g} % here): the model mixes rows, so that "
        "--batch-size and how rows are dealt into passes change what is computed; export it in evaluation mode if "
        "that isn't meant"
    )


def _alone(session: Session, inputs: dict[str, Array], row: int, rows: int, *, fixed: bool) -> float:
    """Return the loss of a row without others, or beside its own copies where the batch is fixed."""
    count = rows if fixed else 1
    own = {name: np.repeat(array[row : row + 1], count, axis=0) for name, array in inputs.items()}
    return float(session.run(own, ("loss",))["loss"][0])


def _shared_scale(exported: Exported) -> str | None:
    return next((node.op_type for node in Graph(exported.model).nodes if node.op_type in _ONE_SCALE), None)
