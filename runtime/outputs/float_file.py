"""The float file beside a merged model of rounded matrices: the source's names, in float32, for other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoedge.manifest import Manifest, QuantizedMatrix
from zoedge.tensor_file import Entry, map_tensors, read_entries

from ..adapters.merging import merged
from .dequantize import dequantized, source_tensors

Source = QuantizedMatrix | NDArray[np.generic]


def write_float_file(
    path: Path, weights: Path, manifest: Manifest, factors: Mapping[str, NDArray[np.generic]]
) -> None:
    """Write the source's tensors with what was learnt in them, one matrix at a time in memory.

    Args:
        path: the safetensors file to write.
        weights: the merged model's own, with rounded matrices; all else in it is as it should be.
        manifest: of a quantised bundle.
        factors: every LoRA factor; a branch beside a rounded matrix is added to what that is in float32.
    """
    by_weight = {branch.weight: branch for branch in manifest.branches}
    stored = map_tensors(weights)
    sources = source_tensors(stored, manifest.quantization)
    kind = manifest.quantization.kind if manifest.quantization is not None else ""
    with path.open("wb") as file:
        file.write(_header(sources, read_entries(weights)))
        for tensor in sources.values():
            if isinstance(tensor, QuantizedMatrix):
                matrix = dequantized(tensor, kind, stored)
                if tensor.values in by_weight:
                    whole = merged(
                        by_weight[tensor.values], factors, matrix.T if tensor.transposed else matrix
                    )
                    matrix = (whole.T if tensor.transposed else whole).astype(np.float32)
                file.write(matrix.reshape(-1).data)
            else:
                file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


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
