"""The source's matrices again, as far as their rounded form tells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from zoedge.manifest import Quantization, QuantizedMatrix

_INT4_ZERO = 8


def dequantized(
    matrix: QuantizedMatrix, kind: str, stored: Mapping[str, NDArray[np.generic]]
) -> NDArray[np.float32]:
    """Return a matrix in float32, in the shape of the source.

    Args:
        matrix: one of the manifest's.
        kind: int8 or int4.
        stored: the tensors of the bundle's weights file.
    """
    scale = stored[matrix.scale].astype(np.float32, copy=False)
    if kind == "int8":
        dense = stored[matrix.values].astype(np.float32) * scale  # [in, out]
        return np.ascontiguousarray(dense if matrix.transposed else dense.T)
    values = stored[matrix.values].astype(np.uint8, copy=False)
    codes = np.stack([values & 15, values >> 4], axis=-1)  # [out, blocks, block / 2, 2]
    width_out, blocks = values.shape[:2]
    blockwise = (codes.reshape(width_out, blocks, -1).astype(np.float32) - _INT4_ZERO) * scale.reshape(
        width_out, blocks, 1
    )
    width_in = matrix.shape[0 if matrix.transposed else 1]
    dense = blockwise.reshape(width_out, -1)[:, :width_in]  # [out, in]
    return np.ascontiguousarray(dense.T if matrix.transposed else dense)


def source_tensors(
    stored: Mapping[str, NDArray[np.generic]], quantization: Quantization | None
) -> dict[str, QuantizedMatrix | NDArray[np.generic]]:
    """Return the source's tensors by its own names: as stored, or how to get a rounded one.

    A matrix that lies in the file as it was, beside a rounded copy, is given as it was.
    """
    if quantization is None:
        return dict(stored)
    added = {name for matrix in quantization.matrices for name in (matrix.values, matrix.scale)}
    kept: dict[str, QuantizedMatrix | NDArray[np.generic]] = {
        name: array for name, array in stored.items() if name not in added
    }
    return {matrix.name: matrix for matrix in quantization.matrices} | kept
