"""References from a graph into the bundle's safetensors files."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from .tensor_writer import Placed


def refer(model: onnx.ModelProto, file: str, places: Mapping[str, Placed]) -> None:
    """Let every initializer named in ``places`` take its data from ``file``, in place.

    onnxruntime maps the file and reads at the offset; any alignment works.
    """
    for tensor in model.graph.initializer:
        if tensor.name not in places:
            continue
        place = places[tensor.name]
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", place.offset), ("length", place.size)):
            tensor.external_data.add(key=key, value=str(value))
