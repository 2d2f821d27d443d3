"""The noise specification compiled by numba: Philox, table and addition fused in one pass over memory.

Bit for bit the same as ``reference``. All buffers of a call are read and written once, whatever
the number of terms; they are cut into chunks that begin Philox blocks, so how chunks are dealt to threads
changes no bit. Samples are drawn chunk by chunk on the way: stretches that no term is added to aren't touched,
and terms of several steps, each with its own sample, share the pass. Threads are Python's own, started for a
call and gone after it: the compiled code holds no lock of the interpreter, and threads that wait for the next
call can't take time from a forward pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numba
import numpy as np

from ..machine.compiled import compiled, digest
from ..machine.threads import usable_cores
from .lanes import (
    WAITING,
    add_32_levels,
    add_32_signs,
    add_256_levels,
    byte_pointer,
    eight_blocks,
    float32_pointer,
    waiting_words,
)
from .philox import philox
from .reference import BLOCK_BITS, STRETCH, Addition, Float32
from .sweep import Family, Sweep
from .work import ALL, CHUNK, FamilyRows, Work

_PIECE = 1 << 8  # chunks that a thread takes at a time, at most
_PARALLEL = 1 << 18  # element additions; below, starting threads costs more than they save


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _add_term(part: Any, start: Any, stream: Any, table: Any, near: Any, ahead: Any) -> None:
    """Add one term to a part of a buffer.

    ``near`` is whether the part is in the cache by now: eight blocks at once then are faster, while waiting for
    memory they are slower. ``ahead`` is how far behind its elements memory is asked for others; None for not.
    """
    # into registers: for all the compiler knows, a store to part changes what these arrays hold
    seed, tensor, step, probe, purpose = stream[0], stream[1], stream[2], stream[3], stream[4]
    low, high = table[0], table[1]
    bits = 1 if table.size == 2 else 8
    block, per_block = start * bits // BLOCK_BITS, BLOCK_BITS // bits
    whole = part.size // per_block
    if bits == 1:
        for b in range(whole):
            words = philox(block + b, step, probe, purpose, seed, tensor)
            for i in range(4):
                at = 256 * b + 64 * i
                add_32_signs(part, at, ahead, np.uint32(words[i]), low, high)
                add_32_signs(part, at + 32, ahead, np.uint32(words[i] >> np.uint64(32)), low, high)
    else:
        eights = whole // 8 if near and eight_blocks() else 0
        for e in range(eights):
            counter = (np.uint64(block + 8 * e), step, probe, purpose)
            add_256_levels(part, 256 * e, ahead, counter, (seed, tensor), table)
        # blocks are looked up a few behind being computed: the processor then does both at once, as neither needs
        # the other, where by itself it looks too little ahead
        words_of = numba.carray(waiting_words(), (WAITING, 4))
        for b in range(8 * eights, whole + WAITING):
            if b >= 8 * eights + WAITING:
                add_32_levels(part, 32 * (b - WAITING), ahead, words_of, 4 * (b % WAITING), table)
            if b < whole:
                words = philox(block + b, step, probe, purpose, seed, tensor)
                for i in range(4):
                    words_of[b % WAITING, i] = words[i]
    words = philox(block + whole, step, probe, purpose, seed, tensor)
    for i in range(part.size - whole * per_block):
        word = words[bits * i // 64] >> np.uint64(bits * i % 64)
        part[whole * per_block + i] += table[np.int64(word & np.uint64(table.size - 1))]


# a function of its own, like the next: inlined, they cost the inner loops up to a tenth
@numba.njit  # type: ignore[untyped-decorator]
def _taken(samples: Any, index: Any, chunk: Any) -> Any:
    """Return which of a chunk's four stretches take part, the first in the lowest bit."""
    if index == ALL:
        return 15
    sample, taken = samples[index], 0
    words = philox(np.uint64(chunk), sample[2], sample[3], sample[4], sample[0], sample[1])
    for i in range(4):
        if words[i] < sample[5]:
            taken |= 1 << i
    return taken


@numba.njit  # type: ignore[untyped-decorator]
def _run_from(taken: Any, low: Any) -> Any:
    """Return where the next run of bits that are set begins and ends; there is one."""
    while not taken >> low & 1:
        low += 1
    high = low + 1
    while taken >> high & 1:
        high += 1
    return low, high


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _shrink(part: Any, factor: Any, taken: Any) -> None:
    high = 0
    while taken >> high:
        low, high = _run_from(taken, high)
        run = part[low * STRETCH : high * STRETCH]
        for i in range(run.size):
            run[i] = run[i] * factor


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _copy(part: Any, values: Any) -> None:
    for i in range(part.size):
        part[i] = values[i]


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _add_chunks(
    first: Any, last: Any, additions: Any, shrinks: Any, streams: Any, spans: Any, levels: Any, samples: Any
) -> None:
    """Work through chunks first .. last - 1 of all buffers; the arrays are those of ``Work``."""
    a = np.searchsorted(additions[:, 0], first, side="right") - 1
    for chunk in range(first, last):
        while chunk >= additions[a + 1, 0]:
            a += 1
        own = chunk - additions[a, 0]
        whole = numba.carray(float32_pointer(additions[a, 1]), (additions[a, 2],))
        part = whole[own * CHUNK : min(additions[a, 2], (own + 1) * CHUNK)]
        source = additions[a, 6]
        if source != 0:
            _copy(part, numba.carray(float32_pointer(source + 4 * own * CHUNK), (part.size,)))
        if shrinks[a] != np.float32(1.0):
            _shrink(part, shrinks[a], _taken(samples, additions[a, 4], own))
        sample, taken = ALL, 15
        for t in range(additions[a, 3], additions[a + 1, 3]):
            if spans[t, 2] != sample:  # the terms of a step share one, and follow each other
                sample = spans[t, 2]
                taken = _taken(samples, sample, own)
            high = 0
            while taken >> high:
                low, high = _run_from(taken, high)
                run = part[low * STRETCH : high * STRETCH]
                start = own * CHUNK + low * STRETCH
                table = levels[spans[t, 0] : spans[t, 1]]
                # while the last term of a chunk is added, the next chunk is on its way: arithmetic takes longer
                # than reading, but by itself the processor looks too little ahead to do both at once
                if taken == 15 and t == additions[a + 1, 3] - 1 and source == 0:
                    _add_term(run, start, streams[t], table, True, CHUNK)
                else:
                    _add_term(run, start, streams[t], table, taken == 15, None)


# chunk by chunk around the function above, which is then compiled as it is without masks
@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _add_masked_chunks(
    first: Any, last: Any, additions: Any, shrinks: Any, streams: Any, spans: Any, levels: Any, samples: Any
) -> None:
    """The same where additions may have masks: what these leave out is put back."""
    kept = np.empty(CHUNK, np.float32)
    for chunk in range(first, last):
        a = np.searchsorted(additions[:, 0], chunk, side="right") - 1
        if additions[a, 5] == 0:
            _add_chunks(chunk, chunk + 1, additions, shrinks, streams, spans, levels, samples)
            continue
        start = (chunk - additions[a, 0]) * CHUNK
        whole = numba.carray(float32_pointer(additions[a, 1]), (additions[a, 2],))
        values = whole
        if additions[a, 6] != 0:
            values = numba.carray(float32_pointer(additions[a, 6]), (additions[a, 2],))
        mask = numba.carray(byte_pointer(additions[a, 5]), ((additions[a, 2] + 7) // 8,))
        part = whole[start : min(additions[a, 2], start + CHUNK)]
        kept[: part.size] = values[start : start + part.size]
        _add_chunks(chunk, chunk + 1, additions, shrinks, streams, spans, levels, samples)
        for i in range(part.size):
            if not mask[(start + i) >> 3] >> ((start + i) & 7) & 1:
                part[i] = kept[i]


def _keyed(sources: int, *, masked: bool = False) -> Callable[..., None]:
    """Return ``_add_chunks`` as a function that numba's cache takes for another where ``sources`` is another."""

    def run(
        first: Any,
        last: Any,
        additions: Any,
        shrinks: Any,
        streams: Any,
        spans: Any,
        levels: Any,
        samples: Any,
    ) -> None:
        if sources >= 0:
            if masked:
                _add_masked_chunks(first, last, additions, shrinks, streams, spans, levels, samples)
            else:
                _add_chunks(first, last, additions, shrinks, streams, spans, levels, samples)

    return run


_run = compiled(_keyed(digest(Path(__file__).parent)))
_run_masked = compiled(_keyed(digest(Path(__file__).parent), masked=True))


def add_terms(additions: Sequence[Addition[Float32]], threads: int = 0) -> None:
    """Make additions to buffers that don't overlap; same contract and bits as ``reference.add_terms``.

    Args:
        additions: the buffers and what is done to each.
        threads: how many work at most; 0 for one per usable core.
    """
    for addition in additions:
        _check(addition)
    volume = sum(a.target.size * max(1, len(a.terms)) for a in additions)
    run = _run_masked if any(addition.mask is not None for addition in additions) else _run
    _make(run, Work.of(additions), volume, threads)


class Sweeper:
    """Makes sweeps over families; keeps what doesn't change of each as long as it lives.

    Args:
        threads: as those of ``add_terms``.
    """

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads
        self._rows = FamilyRows()
        self._checked: WeakSet[Family[Float32]] = WeakSet()

    def __call__(self, sweeps: Sequence[Sweep[Float32]]) -> None:
        """Make the sweeps: the same bits as their additions."""
        if not sweeps:
            return
        volume = 0
        for sweep in sweeps:
            if sweep.family not in self._checked:
                for addition in sweep.additions():
                    _check(addition)
                self._checked.add(sweep.family)
            volume += int(self._rows[sweep.family][:, 2].sum()) * max(1, len(sweep.terms))
        _make(_run, Work.of_sweeps(sweeps, self._rows), volume, self._threads)


def _make(run: Callable[..., None], work: Work, volume: int, threads: int) -> None:
    """Deal the chunks of some work to threads where these save time."""
    chunks = int(work.additions[-1, 0])
    workers = (threads or usable_cores()) if volume >= _PARALLEL else 1
    size = max(1, chunks if workers == 1 else min(_PIECE, -(-chunks // workers)))
    pieces = [(first, min(first + size, chunks)) for first in range(0, chunks, size)]
    _share(run, iter(pieces), work, min(workers, len(pieces)))


def _check(addition: Addition[Float32]) -> None:
    """Refuse arrays that the compiled code would leave or misread.

    Raises:
        ValueError: they are.
    """
    target, mask, source = addition.target, addition.mask, addition.source
    if mask is not None and (mask.nbytes != -(-target.size // 8) or not mask.flags.c_contiguous):
        raise ValueError(f"a mask has a bit for each of {target.size} elements, not {mask.nbytes} bytes")
    if target.dtype != np.float32 or not (target.flags.c_contiguous and target.flags.writeable):
        raise ValueError("noise is added in place to C-contiguous, writeable float32 arrays only")
    if source is None:
        return
    if source.dtype != np.float32 or source.size != target.size or not source.flags.c_contiguous:
        raise ValueError(f"a source is C-contiguous and has {target.size} float32 values")


def _share(run: Callable[..., None], pieces: Iterator[tuple[int, int]], work: Work, workers: int) -> None:
    """Let each worker take piece after piece: one that is held up by other programs takes fewer."""

    def take() -> None:
        for first, last in pieces:
            run(first, last, *work)

    helpers = [threading.Thread(target=take) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    try:
        take()
    finally:
        for helper in helpers:
            helper.join()
