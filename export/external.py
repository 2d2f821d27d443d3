"""Graphs whose tensors lie in the bundle's safetensors files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx

from zoedge.manifest import ADAPTERS_FILE, WEIGHTS_FILE

from .tensor_writer import Placed, Written


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


def write_graph(
    folder: Path, name: str, model: onnx.ModelProto, weights: Written, adapters: Written | None
) -> str:
    """Write a graph that refers to the bundle's tensors; return the file's SHA-256."""
    refer(model, WEIGHTS_FILE, weights.places)
    if adapters is not None:
        refer(model, ADAPTERS_FILE, adapters.places)
    raw = model.SerializeToString(deterministic=True)
    (folder / name).write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()
