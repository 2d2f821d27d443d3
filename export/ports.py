"""Graph inputs and outputs as the manifest lists them, and back."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from zoedge.errors import InputError
from zoedge.manifest import Dim, Port

from .surgery.graph import dims_of


def port_of(value: onnx.ValueInfoProto) -> Port:
    """Return the manifest's form of a graph input or output; nameless dynamic axes get a name.

    A value that is no tensor has its kind for a dtype, "seq(map(int64,tensor(float)))", and no shape.

    Raises:
        InputError: it has no fixed number of dimensions.
    """
    if not is_tensor(value):
        return Port(name=value.name, dtype=port_kind(value), shape=())
    dims = dims_of(value)
    if dims is None:
        raise InputError(f"{value.name} of the graph has no shape: export the ONNX file with shapes")
    names = tuple(dim if dim != "" else _axis_name(value.name, axis) for axis, dim in enumerate(dims))
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return Port(name=value.name, dtype=dtype.name, shape=names)


def is_tensor(value: onnx.ValueInfoProto) -> bool:
    """Whether a graph input or output is a tensor, and no sequence, map, optional value or sparse tensor."""
    return value.type.WhichOneof("value") in ("tensor_type", None)


def port_kind(value: onnx.ValueInfoProto) -> str:
    """Return the type of a graph input or output as onnxruntime writes it: "tensor(int64)"."""
    return _kind(value.type)


def _kind(kind: onnx.TypeProto) -> str:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return f"seq({_kind(kind.sequence_type.elem_type)})"
    if which == "map_type":
        key = _element(kind.map_type.key_type)
        return f"map({key},{_kind(kind.map_type.value_type)})"
    if which == "optional_type":
        return f"optional({_kind(kind.optional_type.elem_type)})"
    if which == "sparse_tensor_type":
        return f"sparse_tensor({_element(kind.sparse_tensor_type.elem_type)})"
    return f"tensor({_element(kind.tensor_type.elem_type)})"


def _element(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()


def value_of(port: Port) -> onnx.ValueInfoProto:
    """Return a graph input or output of this description."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return helper.make_tensor_value_info(port.name, dtype, list(port.shape))


def _axis_name(name: str, axis: int) -> Dim:
    return "batch" if axis == 0 else f"{name}_axis{axis}"


def find_value(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Return the declaration of a value: an output of the model, or one that its source described."""
    return next(v for v in [*model.graph.output, *model.graph.value_info] if v.name == name)
