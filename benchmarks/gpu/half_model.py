"""The stock model in float16, as its users would convert it: all of it, logits included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

Arrays = dict[str, np.ndarray[Any, Any]]


def half_model(path: Path) -> tuple[bytes, Arrays]:
    """Return a float32 model's graph in float16, and its weights in that type.

    Args:
        path: of a model whose weights lie in a file beside it.

    Returns:
        The serialised graph, whose weights are initializers that lie in no file, and name -> array for them.
    """
    from zoedge.export.surgery.half import to_half

    proto = onnx.load(path, load_external_data=False)
    stored = {t.name: t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    inner = [t for t in proto.graph.initializer if t.name not in stored]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(inner)
    proto.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(t.dims)) for name, t in stored.items()
    )
    half = to_half(proto, list(stored), [output.name for output in proto.graph.output])
    inputs = [value for value in half.graph.input if value.name not in stored]
    del half.graph.input[:]
    half.graph.input.extend(inputs)
    half.graph.initializer.extend(_elsewhere(name, tensor) for name, tensor in stored.items())
    return half.SerializeToString(), {name: _values(path.parent, t) for name, t in stored.items()}


def _elsewhere(name: str, like: TensorProto) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(like.dims)
    for key, value in (("location", "given"), ("offset", "0"), ("length", str(2 * int(np.prod(like.dims))))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def _values(folder: Path, tensor: TensorProto) -> np.ndarray[Any, Any]:
    where = {entry.key: entry.value for entry in tensor.external_data}
    shape = tuple(tensor.dims)
    mapped = np.memmap(
        folder / where["location"], np.float32, "r", int(where.get("offset", 0)), (int(np.prod(shape)),)
    )
    return np.asarray(mapped).astype(np.float16).reshape(shape)
