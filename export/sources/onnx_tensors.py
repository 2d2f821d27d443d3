"""The tensors of an ONNX file as views of memory maps, whether they lie in it or beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from zoedge.errors import InputError

from .onnx_wire import Skeleton

Array = np.ndarray[Any, Any]

_NUMPY = {
    TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2", TensorProto.BFLOAT16: "<u2",
    TensorProto.INT64: "<i8", TensorProto.INT32: "<i4", TensorProto.INT16: "<i2", TensorProto.INT8: "<i1",
    TensorProto.UINT64: "<u8", TensorProto.UINT32: "<u4", TensorProto.UINT16: "<u2", TensorProto.UINT8: "<u1",
    TensorProto.BOOL: "?",
}  # fmt: skip


def read_tensors(path: Path, skeleton: Skeleton) -> dict[str, Array]:
    """Return every initializer by name.

    Types that NumPy lacks come as unsigned integers of their bits: bfloat16 as uint16 of the same shape,
    8-bit floats and 4-bit integers as a flat array of bytes. Strings are left in the model.

    Raises:
        InputError: external data is missing, too short or outside the model's folder.
    """
    files = _Files(path)
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(skeleton.model.graph.initializer):
        if tensor.data_type == TensorProto.STRING:
            continue
        if index in skeleton.data:
            offset, size = skeleton.data[index]
            arrays[tensor.name] = _view(tensor, files.map(path.name), offset, size, path)
        elif tensor.data_location == TensorProto.EXTERNAL:
            arrays[tensor.name] = _external(tensor, files, path)
        else:
            arrays[tensor.name] = inline_array(tensor)
    return arrays


def tensor_reader(path: Path) -> Callable[[TensorProto], Array]:
    """Return a function from a tensor of a file, wherever its data lies, to what ``read_tensors`` makes of it."""
    files = _Files(path)

    def read(tensor: TensorProto) -> Array:
        external = tensor.data_location == TensorProto.EXTERNAL
        return _external(tensor, files, path) if external else inline_array(tensor)

    return read


def inline_array(tensor: TensorProto) -> Array:
    """Return the data that a tensor holds itself, in the form of ``read_tensors``."""
    array: Array = np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(tuple(tensor.dims))
    wanted = _NUMPY.get(tensor.data_type)
    if wanted is not None:
        return array.view(wanted) if array.dtype != np.dtype(wanted) else array
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data, np.uint8)
    return np.frombuffer(numpy_helper.from_array(array).raw_data, np.uint8)


class _Files:
    """One read-only map per file beside the model."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._maps: dict[str, np.memmap[Any, Any]] = {}

    def map(self, name: str) -> np.memmap[Any, Any]:
        if name not in self._maps:
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts:
                raise InputError(
                    f"{self._model} refers to {name}, which lies outside its folder: put them side by side"
                )
            try:
                self._maps[name] = np.memmap(self._model.parent / name, np.uint8, "r")
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self._model} keeps its weights in {name!r}, which is missing or empty: copy both files"
                ) from error
        return self._maps[name]


def _external(tensor: TensorProto, files: _Files, path: Path) -> Array:
    held = {entry.key: entry.value for entry in tensor.external_data}
    data = files.map(held.get("location", ""))
    offset = int(held.get("offset", 0))
    dtype = _NUMPY.get(tensor.data_type)
    known = None if dtype is None else math.prod(tensor.dims) * np.dtype(dtype).itemsize
    size = int(held["length"]) if "length" in held else known if known is not None else data.size - offset
    return _view(tensor, data, offset, size, path)


def _view(tensor: TensorProto, data: np.memmap[Any, Any], offset: int, size: int, path: Path) -> Array:
    dtype = _NUMPY.get(tensor.data_type)
    shape = (size,) if dtype is None else tuple(tensor.dims)
    kind = np.dtype(dtype or np.uint8)
    if not 0 <= offset <= offset + size <= data.size or math.prod(shape) * kind.itemsize != size:
        raise InputError(
            f"{path}: the data of {tensor.name} is cut off or doesn't fit its shape: copy or export the model and "
            "its data again"
        )
    if size == 0:
        return np.zeros(shape, kind)
    # frombuffer takes any offset, aligned or not, and shares the map
    return np.frombuffer(data.data, kind, math.prod(shape), offset).reshape(shape)


def without_data(tensor: TensorProto) -> TensorProto:
    """Return a tensor's name, type and shape, marked as having its data elsewhere."""
    empty = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    empty.data_location = TensorProto.EXTERNAL
    return empty
