"""The noise specification compiled by numba: Philox, table and addition fused in one pass over memory.

Bit for bit the same as ``noise`` (the reference). The memory is read and written once whatever the number
of terms; the work is split over threads by blocks of the stream, which changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .noise import Float32, Term

_PARALLEL_ELEMENTS = 1 << 18  # below, waking the other threads costs more than they save
_BLOCKS = 512  # Philox blocks (32 bytes each) per task: 16,384 elements, 64 KiB of float32


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_high(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the upper 64 bits of the 128-bit product of two uint64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), emit


# Constants of Philox4x64 (Salmon et al., SC 2011): two multipliers, two Weyl increments
_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _philox(block: Any, step: Any, probe: Any, purpose: Any, k0: Any, k1: Any) -> Any:
    c0, c1, c2, c3 = block, step, probe, purpose
    for _ in range(10):
        high0, low0 = _multiply_high(_M0, c0), _M0 * c0
        high1, low1 = _multiply_high(_M1, c2), _M1 * c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += _W0
        k1 += _W1
    return c0, c1, c2, c3


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _add_word(part: Any, offset: Any, word: Any, table: Any, count: Any) -> None:
    for j in range(min(np.int64(8), count - offset)):
        part[offset + j] += table[(word >> np.uint64(8 * j)) & np.uint64(255)]


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _add_eight(part: Any, offset: Any, word: Any, table: Any) -> None:
    for j in range(8):
        part[offset + j] += table[(word >> np.uint64(8 * j)) & np.uint64(255)]


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _add_term(part: Any, first_block: Any, stream: Any, table: Any) -> None:
    seed, tensor, step, probe, purpose = stream[0], stream[1], stream[2], stream[3], stream[4]
    whole = part.size // 32
    for b in range(whole):
        words = _philox(np.uint64(first_block + b + 1), step, probe, purpose, seed, tensor)
        for i in range(4):
            _add_eight(part, 32 * b + 8 * i, words[i], table)
    if 32 * whole < part.size:
        words = _philox(np.uint64(first_block + whole + 1), step, probe, purpose, seed, tensor)
        for i in range(4):
            _add_word(part, 32 * whole + 8 * i, words[i], table, part.size)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _add_task(flat: Any, task: Any, streams: Any, tables: Any, shrink: Any) -> None:
    chunk = 32 * _BLOCKS
    part = flat[task * chunk : min(flat.size, (task + 1) * chunk)]
    if shrink != np.float32(1.0):
        for i in range(part.size):
            part[i] = part[i] * shrink
    for t in range(streams.shape[0]):
        _add_term(part, np.int64(task) * _BLOCKS, streams[t], tables[t])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_serial(flat: Any, streams: Any, tables: Any, shrink: Any) -> None:
    for task in range((flat.size + 32 * _BLOCKS - 1) // (32 * _BLOCKS)):
        _add_task(flat, task, streams, tables, shrink)


@numba.njit(parallel=True, cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_parallel(flat: Any, streams: Any, tables: Any, shrink: Any) -> None:
    for task in numba.prange((flat.size + 32 * _BLOCKS - 1) // (32 * _BLOCKS)):
        _add_task(flat, task, streams, tables, shrink)


def add_terms(target: Float32, terms: Sequence[Term], shrink: float = 1.0) -> None:
    """Add terms to a contiguous float32 array in place; same contract and bits as ``noise.add_terms``."""
    if not terms and shrink == 1.0:
        return
    streams: NDArray[np.uint64] = np.array([t.stream for t in terms], dtype=np.uint64).reshape(-1, 5)
    tables = np.array([t.table for t in terms], dtype=np.float32).reshape(-1, 256)
    add = _add_serial if target.size < _PARALLEL_ELEMENTS else _add_parallel
    add(target.reshape(-1), streams, tables, np.float32(shrink))
