"""Graph inputs and outputs as the manifest lists them, and back."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from zoedge.errors import InputError
from zoedge.manifest import Dim, Port

from .surgery.graph import dims_of


def port_of(value: onnx.ValueInfoProto) -> Port:
    """Return the manifest's form of a graph input or output; nameless dynamic axes get a name.

    Raises:
        InputError: it has no fixed number of dimensions.
    """
    dims = dims_of(value)
    if dims is None:
        raise InputError(f"{value.name} of the graph has no shape: export the ONNX file with shapes")
    names = tuple(dim if dim != "" else _axis_name(value.name, axis) for axis, dim in enumerate(dims))
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return Port(name=value.name, dtype=dtype.name, shape=names)


def value_of(port: Port) -> onnx.ValueInfoProto:
    """Return a graph input or output of this description."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return helper.make_tensor_value_info(port.name, dtype, list(port.shape))


def _axis_name(name: str, axis: int) -> Dim:
    return "batch" if axis == 0 else f"{name}_axis{axis}"


def find_value(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Return the declaration of a value: an output of the model, or one that its source described."""
    return next(v for v in [*model.graph.output, *model.graph.value_info] if v.name == name)
