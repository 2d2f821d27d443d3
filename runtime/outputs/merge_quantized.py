"""Merging into rounded matrices: what was learnt stays beside them in ONNX, and is added in the float file.

A branch is smaller than the steps of an integer matrix, so folding it in would lose it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.manifest import (
    ADAPTED_MODEL_FILE,
    ADAPTERS_FILE,
    MERGED_MODEL_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    LoraBranch,
    Quantization,
    QuantizedMatrix,
)
from zoedge.tensor_file import Entry, map_tensors, read_entries

from .dequantize import dequantized, source_tensors

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

Tensors = Mapping[str, NDArray[np.generic]]
Source = QuantizedMatrix | NDArray[np.generic]


def write_merged(
    bundle: Bundle, quantization: Quantization, dense: Tensors, factors: Tensors, folder: Path, floats: str
) -> None:
    """Fill a folder with the tuned model.

    ``model.onnx`` keeps the rounded matrices, in the bundle's ``weights.safetensors``, and the branches beside
    them as constants. The float file has the source's names, with rounded matrices turned back into float32
    and the branches added to them, one at a time in memory.

    Args:
        bundle: the bundle that was tuned.
        quantization: of its manifest.
        dense: the tuned tensors other than factors.
        factors: every LoRA factor.
        folder: to write to.
        floats: name of the float file.

    Raises:
        InputError: an adapter lies beside a head that shares its matrix with an embedding.
        BundleError: a tuned tensor has no place in the bundle's file.
    """
    branches = bundle.manifest.lora
    by_weight = {branch.weight: branch for branch in branches}
    kept = read_entries(bundle.path(WEIGHTS_FILE))
    for tied in quantization.matrices:
        if tied.values in by_weight and tied.name in kept:
            raise InputError(
                f"the adapter of {by_weight[tied.values].module} can't be merged into {tied.name}, which an "
                f"embedding shares: deploy the bundle's {ADAPTED_MODEL_FILE} with the file that zoedge adapter writes"
            )
    shutil.copyfile(bundle.path(MERGED_MODEL_FILE if branches else MODEL_FILE), folder / MODEL_FILE)
    _copy_with(bundle.path(WEIGHTS_FILE), folder / WEIGHTS_FILE, dense)
    if branches:
        _copy_with(bundle.path(ADAPTERS_FILE), folder / ADAPTERS_FILE, factors)
    stored = map_tensors(folder / WEIGHTS_FILE)
    sources = source_tensors(stored, quantization)
    with (folder / floats).open("wb") as file:
        file.write(_header(sources, read_entries(folder / WEIGHTS_FILE)))
        for tensor in sources.values():
            if isinstance(tensor, QuantizedMatrix):
                matrix = dequantized(tensor, quantization.kind, stored)
                if tensor.values in by_weight:
                    delta = _delta(by_weight[tensor.values], factors)  # [out, in]
                    matrix += (delta.T if tensor.transposed else delta).astype(np.float32)
                file.write(matrix.reshape(-1).data)
            else:
                file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def _delta(branch: LoraBranch, factors: Tensors) -> NDArray[np.float64]:
    a, b = factors[branch.a].astype(np.float64), factors[branch.b].astype(np.float64)
    product: NDArray[np.float64] = (branch.alpha / branch.rank) * (b @ a)
    return product


def _copy_with(source: Path, copy: Path, values: Tensors) -> None:
    """Copy a safetensors file with some tensors replaced by others of the same shape and type."""
    shutil.copyfile(source, copy)
    entries = read_entries(copy)
    with copy.open("r+b") as file:
        for name, value in values.items():
            entry = entries.get(name)
            if entry is None or entry.shape != value.shape or entry.dtype != _DTYPES.get(value.dtype.name):
                raise BundleError(
                    f"the tuned {name} ({value.dtype} {list(value.shape)}) has no place in {source}: "
                    "merge with the bundle that was tuned"
                )
            file.seek(entry.offset)
            file.write(np.ascontiguousarray(value).reshape(-1).data)


def _header(sources: Mapping[str, Source], entries: Mapping[str, Entry]) -> bytes:
    """Return the head of a safetensors file of these tensors in this order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sources.items():
        kind = "F32" if isinstance(tensor, QuantizedMatrix) else entries[name].dtype
        size = 4 * int(np.prod(tensor.shape)) if isinstance(tensor, QuantizedMatrix) else tensor.nbytes
        start, end = end, end + size
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
