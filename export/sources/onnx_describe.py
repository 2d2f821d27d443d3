"""Declares the sizes of a graph's inputs and outputs as runs of two sizes show them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from zoedge.manifest import Dim

from ..ports import is_tensor
from ..surgery.graph import dims_of
from .onnx_logits import Found

BATCH = "batch"


def describe(model: onnx.ModelProto, found: Found) -> None:
    """Name the dynamic dimensions of the inputs, and declare the outputs and the logits, in place."""
    batch: Dim = ""
    for value in model.graph.input:
        axis = found.batch.inputs.get(value.name)
        if axis is not None:
            _name_dims(value, axis)
            batch = batch or (dims_of(value) or ())[axis]
    if all(value.name != found.made.name for value in model.graph.output):
        model.graph.value_info.append(onnx.ValueInfoProto(name=found.made.name))
    rows = [inputs[name].shape[axis] for inputs, _ in found.runs for name, axis in [_first(found)]]
    for value in [*model.graph.output, *(v for v in model.graph.value_info if v.name == found.made.name)]:
        if is_tensor(value) and value.name in found.runs[0][1]:
            _declare(value, [outputs[value.name] for _, outputs in found.runs], rows, batch)


def _first(found: Found) -> tuple[str, int]:
    return next(iter(found.batch.inputs.items()))


def _name_dims(value: onnx.ValueInfoProto, batch: int) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if not dim.HasField("dim_value") and not dim.dim_param:
            dim.dim_param = BATCH if axis == batch else f"{value.name}_axis{axis}"


def _declare(value: onnx.ValueInfoProto, arrays: list[np.ndarray], rows: list[int], batch: Dim) -> None:
    """Declare an output of two runs with these rows: sizes that differ between them are dynamic."""
    declared = dims_of(value) or ("",) * arrays[0].ndim
    dims: list[Dim] = []
    for axis, sizes in enumerate(zip(*(array.shape for array in arrays), strict=True)):
        named = declared[axis] if axis < len(declared) else ""
        if len(set(sizes)) == 1:
            dims.append(sizes[0])
        elif list(sizes) == rows and batch not in dims:
            dims.append(batch)
        else:
            dims.append(named if isinstance(named, str) and named else f"{value.name}_axis{axis}")
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, dims))
