"""The noise specification compiled by numba: Philox, table and addition fused in one pass over memory.

Bit for bit the same as ``noise`` (the reference). All buffers of a call are read and written once, whatever
the number of terms; they are cut into chunks that begin Philox blocks, so how chunks are dealt to threads
changes no bit. Threads are Python's own, started for a call and gone after it: the compiled code holds no
lock of the interpreter, and threads that wait for the next call can't take time from a forward pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from .lanes import add_8_levels, add_32_signs, float32_pointer, multiply_wide
from .noise import BLOCK_BITS, Addition, Float32
from .threads import usable_cores

_CHUNK = 1 << 12  # elements that all terms are added to in turn: 16 KiB, half of a first-level cache
_PIECE = 1 << 8  # chunks that a thread takes at a time, at most
_PARALLEL = 1 << 18  # element additions; below, starting threads costs more than they save

# Constants of Philox4x64 (Salmon et al., SC 2011): two multipliers, two Weyl increments
_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _philox(block: Any, step: Any, probe: Any, purpose: Any, k0: Any, k1: Any) -> Any:
    c0, c1, c2, c3 = np.uint64(block + 1), step, probe, purpose
    for _ in range(10):
        high0, low0 = multiply_wide(_M0, c0)
        high1, low1 = multiply_wide(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += _W0
        k1 += _W1
    return c0, c1, c2, c3


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _add_term(part: Any, start: Any, stream: Any, table: Any) -> None:
    # into registers: for all the compiler knows, a store to part changes what these arrays hold
    seed, tensor, step, probe, purpose = stream[0], stream[1], stream[2], stream[3], stream[4]
    low, high = table[0], table[1]
    bits = 1 if table.size == 2 else 8
    block, per_block = start * bits // BLOCK_BITS, BLOCK_BITS // bits
    whole = part.size // per_block
    # a block ahead: its multiplications run while the block before is added
    ahead = _philox(block, step, probe, purpose, seed, tensor)
    if bits == 1:
        for b in range(whole):
            words, ahead = ahead, _philox(block + b + 1, step, probe, purpose, seed, tensor)
            for i in range(4):
                at = 256 * b + 64 * i
                add_32_signs(part, at, np.uint32(words[i]), low, high)
                add_32_signs(part, at + 32, np.uint32(words[i] >> np.uint64(32)), low, high)
    else:
        for b in range(whole):
            words, ahead = ahead, _philox(block + b + 1, step, probe, purpose, seed, tensor)
            for i in range(4):
                add_8_levels(part, 32 * b + 8 * i, words[i], table)
    for i in range(part.size - whole * per_block):
        word = ahead[bits * i // 64] >> np.uint64(bits * i % 64)
        part[whole * per_block + i] += table[np.int64(word & np.uint64(table.size - 1))]


def _add_chunks(
    first: Any, last: Any, additions: Any, shrinks: Any, streams: Any, spans: Any, levels: Any
) -> None:
    """Work through chunks first .. last - 1 of all buffers; the arrays are those of ``_Work``."""
    a = np.searchsorted(additions[:, 0], first, side="right") - 1
    for chunk in range(first, last):
        while chunk >= additions[a + 1, 0]:
            a += 1
        start = (chunk - additions[a, 0]) * _CHUNK
        whole = numba.carray(float32_pointer(additions[a, 1]), (additions[a, 2],))
        part = whole[start : min(additions[a, 2], start + _CHUNK)]
        if shrinks[a] != np.float32(1.0):
            for i in range(part.size):
                part[i] = part[i] * shrinks[a]
        for t in range(additions[a, 3], additions[a + 1, 3]):
            _add_term(part, start, streams[t], levels[spans[t, 0] : spans[t, 1]])


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    try:
        compiled = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that numba could keep its cache in
        compiled = numba.njit(nogil=True)(function)
    return compiled  # type: ignore[no-any-return]


_run = _compiled(_add_chunks)


class _Work(NamedTuple):
    """Additions as arrays. The last row of ``additions`` is the end of the chunks and of the terms."""

    additions: NDArray[np.int64]  # [additions + 1, 4]: first chunk, address, elements, first term
    shrinks: NDArray[np.float32]
    streams: NDArray[np.uint64]  # [terms, 5]
    spans: NDArray[np.int64]  # [terms, 2]: where a term's table is in ``levels``
    levels: NDArray[np.float32]  # every table once, one after the other

    @classmethod
    def of(cls, additions: Sequence[Addition]) -> _Work:
        rows: list[tuple[int, int, int, int]] = []
        spans: list[tuple[int, int]] = []
        tables: dict[int, tuple[Float32, tuple[int, int]]] = {}
        chunk = end = 0
        for target, terms, _ in additions:
            rows.append((chunk, target.ctypes.data, target.size, len(spans)))
            chunk += -(-target.size // _CHUNK)
            for term in terms:
                key = id(term.table)
                if key not in tables:
                    if term.table.shape not in ((2,), (256,)):
                        raise ValueError(f"a table holds 2 or 256 levels, not {term.table.shape}")
                    tables[key] = (term.table, (end, end + term.table.size))
                    end += term.table.size
                spans.append(tables[key][1])
        rows.append((chunk, 0, 0, len(spans)))
        return cls(
            np.array(rows, np.int64),
            np.array([a.shrink for a in additions], np.float32),
            np.array([t.stream for a in additions for t in a.terms], np.uint64).reshape(-1, 5),
            np.array(spans, np.int64).reshape(-1, 2),
            np.concatenate([np.zeros(0, np.float32), *(t for t, _ in tables.values())], dtype=np.float32),
        )


def add_terms(additions: Sequence[Addition], threads: int = 0) -> None:
    """Make additions to buffers that don't overlap; same contract and bits as ``noise.add_terms``.

    Args:
        additions: the buffers and what is done to each.
        threads: how many work at most; 0 for one per usable core.
    """
    for target, _, _ in additions:
        if target.dtype != np.float32 or not (target.flags.c_contiguous and target.flags.writeable):
            raise ValueError("noise is added in place to C-contiguous, writeable float32 arrays only")
    work = _Work.of(additions)
    chunks = int(work.additions[-1, 0])
    volume = sum(a.target.size * max(1, len(a.terms)) for a in additions)
    workers = (threads or usable_cores()) if volume >= _PARALLEL else 1
    size = max(1, chunks if workers == 1 else min(_PIECE, -(-chunks // workers)))
    pieces = [(first, min(first + size, chunks)) for first in range(0, chunks, size)]
    _share(iter(pieces), work, min(workers, len(pieces)))


def _share(pieces: Iterator[tuple[int, int]], work: _Work, workers: int) -> None:
    """Let each worker take piece after piece: one that is held up by other programs takes fewer."""

    def take() -> None:
        for first, last in pieces:
            _run(first, last, *work)

    helpers = [threading.Thread(target=take) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    try:
        take()
    finally:
        for helper in helpers:
            helper.join()
