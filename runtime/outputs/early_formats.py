"""Bundles before format 3 don't tell which matrices something else reads, too: whether merging is right is tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError
from zoedge.manifest import ADAPTED_MODEL_FILE

from ..device.ort import onnxruntime as ort

_OPEN = 2  # size of an axis that a graph leaves open
_OF_CHANGE = 2e-3  # of what branches change at most may be off
_ROUNDING = {"F32": 1e-4, "F16": 5e-3}  # of the largest value, by how matrices are stored
_COARSE = 3e-2

Tensors = Mapping[str, NDArray[np.generic]]


def merged_differs(merged: Path, adapted: Path, factors: Tensors, dense: Tensors, stored: set[str]) -> bool:
    """Return whether a merged model gives something else than the model with its branches, on made-up inputs.

    Args:
        merged: the merged model.
        adapted: the model with branches beside its matrices; what was tuned may be given as inputs.
        factors: the branches' tensors by name.
        dense: the other tuned tensors.
        stored: the types of the matrices that were merged into, as safetensors calls them.

    Raises:
        InputError: a model can't be run on such inputs.
    """
    try:
        branches, plain = _open(adapted), _open(merged)
        given = _inputs(plain)
        wanted, before = (
            _floats(branches.run(None, given | more)) for more in ({**dense, **factors}, dict(dense))
        )
        found = _floats(plain.run(None, given))
    except Exception as error:  # onnxruntime's classes share no base
        reason = str(error).partition("\n")[0]
        raise InputError(
            "the bundle is of an early format, which doesn't tell whether this adapter can be merged, and that "
            f"couldn't be tried ({reason}): deploy its {ADAPTED_MODEL_FILE} with the file that zoedge adapter writes, "
            "or export and tune again"
        ) from error
    rounding = max(_ROUNDING.get(each, _COARSE) for each in stored)
    for right, old, new in zip(wanted, before, found, strict=True):
        largest, change = float(np.abs(right).max(initial=0.0)), float(np.abs(right - old).max(initial=0.0))
        if float(np.abs(new - right).max(initial=0.0)) > _OF_CHANGE * change + rounding * largest:
            return True
    return False


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _inputs(session: ort.InferenceSession) -> dict[str, NDArray[np.generic]]:
    """Return two rows that run: normal floats, and ones for whole numbers."""
    rng = np.random.default_rng(0)
    made = {}
    for port in session.get_inputs():
        shape = tuple(dim if isinstance(dim, int) else _OPEN for dim in port.shape)
        kind = port.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
        made[port.name] = (rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)).astype(dtype)
    return made


def _floats(outputs: list[Any]) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(each) for each in outputs if isinstance(each, np.ndarray)]
    return [array.astype(np.float64) for array in arrays if array.dtype.kind == "f"]
