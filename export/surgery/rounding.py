"""Matrices rounded to integers, laid out as onnxruntime's kernels read them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .graph import Array

# x86 without VNNI adds two products of uint8 and int8 in int16, which saturates: 255 * (64 + 64) just fits.
# With 127 some sums would be clipped on such processors and not on others.
INT8_LEVELS = 64
INT4_BLOCK = 32
_INT4_ZERO = 8  # of the unsigned codes 0..15


class Rounded(NamedTuple):
    """Integers and the scales that turn them back into floats."""

    values: Array
    scales: Array


def round_int8(matrix: Array) -> Rounded:
    """Round a float matrix [in, out] to int8 [in, out] with one scale per output, float32 [out]."""
    largest = np.maximum(matrix.max(axis=0, initial=0.0), -matrix.min(axis=0, initial=0.0))
    scales = np.where(largest > 0, largest / INT8_LEVELS, 1.0).astype(np.float32)
    values = np.empty(matrix.shape, np.int8)
    np.rint(matrix / scales, out=values, casting="unsafe")
    return Rounded(values, scales)


def round_int4(matrix: Array) -> Rounded:
    """Round a float matrix [in, out] to 4 bits, in blocks of ``INT4_BLOCK`` inputs with one scale each.

    Returns:
        ``values`` uint8 [out, blocks, INT4_BLOCK / 2], two codes a byte, the earlier input in the low bits;
        ``scales`` float32 [out * blocks]: w = (code - 8) * scale. Inputs past the last are code 8.
    """
    width_in, width_out = matrix.shape
    blocks = -(-width_in // INT4_BLOCK)
    padded = np.zeros((width_out, blocks * INT4_BLOCK), np.float32)
    padded[:, :width_in] = matrix.T
    parts = padded.reshape(width_out, blocks, INT4_BLOCK)
    # the element of the largest size becomes code 0, -8 * scale: its sign makes use of the sixteenth code
    index = np.abs(parts).argmax(axis=2)[..., None]
    scales = np.take_along_axis(parts, index, axis=2) / -_INT4_ZERO
    divisors = np.where(scales == 0, np.float32(1), scales)
    codes = np.clip(np.rint(parts / divisors) + _INT4_ZERO, 0, 15).astype(np.uint8)
    return Rounded(codes[..., 0::2] | codes[..., 1::2] << 4, scales.reshape(-1))
