"""The noise specification: the direction z of a tensor as a pure function, in NumPy.

The stream of a tensor is NumPy's ``Philox`` (4x64, 10 rounds; Salmon et al., SC 2011) with

    key     = (run seed, tensor id)            tensor id = 64-bit BLAKE2b of the tensor's name
    counter = (block + 1, step, probe, purpose)

Block b yields 32 bytes. A distribution is a table of 2^k float32 levels, k = 1 or 8, and element i of the
flattened tensor takes bits k i .. k i + k - 1 of the stream, byte after byte, lowest bit first: byte i of
256 levels, bit i % 8 of byte i // 8 of two. So a block serves 32 elements or 256. Levels come in pairs: the
k-th from below and the k-th from above differ in sign alone. z[i] = levels[bits], and
perturbing is one float32 addition, w[i] += T[bits] with T = float32(scale * level): the same bits on every
processor, for any thread count, tensor order or set of frozen tensors.

A term can be left out of some stretches of 1,024 elements (a ``Sample``); what it adds elsewhere stays as it
is, since every element has its own place in the stream.

This module is the reference. ``numba_kernel`` computes the same bits faster and is tested against it.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .permutation import name_id

Float32 = NDArray[np.float32]

NOISE_VERSION = 2  # 1: every distribution took 8 bits an element

PURPOSE_DIRECTION = 0  # z of a probe
PURPOSE_BASIS = 1  # U and V of a low-rank window
PURPOSE_INIT = 2  # initial values that tuning draws
PURPOSE_SAMPLE = 3  # which stretches of a tensor take part in a step

BLOCK_BITS = 256  # of one Philox block
STRETCH = 1 << 10  # elements that take part or are left out together: whole blocks, and a page of memory
_CHUNK = 1 << 16  # elements looked up at a time: stays in the cache


class Stream(NamedTuple):
    """Names one stream of bytes; every field is an unsigned 64-bit integer."""

    seed: int
    tensor: int
    step: int
    probe: int
    purpose: int = PURPOSE_DIRECTION


class Sample(NamedTuple):
    """Which stretches of a tensor take part: stretch s does where word s of a stream is below share * 2^64.

    A word is 64 bits of the stream, little-endian, so that each stretch is drawn by itself: a block of the
    stream draws for four stretches. ``share`` is above 0 and below 1.
    """

    stream: Stream
    share: float

    @property
    def bound(self) -> int:
        """Return what the words of stretches that take part are below."""
        return int(math.ldexp(self.share, 64))


class Term(NamedTuple):
    """One addend ``scale * z``: a stream and its table T of 2 or 256 paired float32 values, scale folded in.

    It is added to the stretches of its sample, or to all elements without one.
    """

    stream: Stream
    table: Float32
    sample: Sample | None = None

    @property
    def bits(self) -> int:
        """How many bits of the stream an element takes."""
        return self.table.size.bit_length() - 1


T = TypeVar("T")  # what a target is: an array here, a buffer of some device elsewhere


class Addition(NamedTuple, Generic[T]):
    """What is done to one buffer: target <- shrink * target, then each term added in order.

    Every operation rounds to float32. ``target`` is C-contiguous and changed in place; a shrink of 1
    skips the multiplication. Only the stretches of ``sample`` shrink, or all elements without one.
    ``mask`` is uint8 [ceil(elements / 8)], a bit an element, the first in the lowest: those without stay as they are.
    ``source`` holds as many float32 values, which the target is given before anything else; None where it has its own.
    A float16 target is computed in float32 and rounded once, at the end, to the nearest (ties to even).
    """

    target: T
    terms: Sequence[Term]
    shrink: float = 1.0
    sample: Sample | None = None
    mask: T | None = None
    source: T | None = None


def tensor_id(name: str) -> int:
    """Return the second word of a tensor's Philox key: the 64-bit BLAKE2b of its name, little-endian."""
    return name_id(name)


def _gaussian_levels() -> Float32:
    normal = statistics.NormalDist()
    quantiles = np.array([normal.inv_cdf((k + 0.5) / 256) for k in range(256)])
    return np.asarray(quantiles / np.sqrt(np.mean(quantiles**2)), np.float32)


LEVELS: dict[str, Float32] = {
    # the quantiles at (k + 1/2)/256, scaled to unit variance
    "gaussian": _gaussian_levels(),
    # one bit an element: a sign costs an eighth of the stream that a byte does
    "rademacher": np.array([-1.0, 1.0], np.float32),
}


@functools.lru_cache(maxsize=256)  # one table serves all tensors of a step
def table(distribution: str, scale: float) -> Float32:
    """Return T = float32(scale * level), read-only; the product is rounded once, from float64."""
    scaled = (np.float64(scale) * LEVELS[distribution].astype(np.float64)).astype(np.float32)
    half = scaled.size // 2
    scaled[half:] = -scaled[half - 1 :: -1]  # as they are, but for the sign of what is not a number
    scaled.flags.writeable = False
    return scaled


def stream_bytes(stream: Stream, first_block: int, count: int) -> NDArray[np.uint8]:
    """Return ``count`` bytes of a stream from the start of ``first_block`` (32 bytes each)."""
    generator = np.random.Philox(
        key=np.array([stream.seed, stream.tensor], dtype=np.uint64),
        # NumPy increments the counter before each block, hence the + 1 of the specification
        counter=np.array([first_block, stream.step, stream.probe, stream.purpose], dtype=np.uint64),
    )
    words = generator.random_raw(-(-count // 8))
    return np.frombuffer(words.astype("<u8", copy=False).tobytes(), dtype=np.uint8, count=count)


def stream_indices(term: Term, start: int, count: int) -> NDArray[np.uint8]:
    """Return which levels elements start .. start + count - 1 take; ``start`` begins a block."""
    raw = stream_bytes(term.stream, start * term.bits // BLOCK_BITS, -(-count * term.bits // 8))
    return raw if term.bits == 8 else np.unpackbits(raw, count=count, bitorder="little")


def stretches(sample: Sample, first: int, count: int) -> NDArray[np.bool_]:
    """Return which of the stretches first .. first + count - 1 take part; ``first`` is a multiple of 4."""
    words = stream_bytes(sample.stream, first // 4, 8 * count).view("<u8")
    return words < np.uint64(sample.bound)


def add_terms(additions: Sequence[Addition[Float32]]) -> None:
    """Make additions to buffers that don't overlap."""
    for target, terms, shrink, sample, mask, source in additions:
        flat = target.reshape(-1)
        values = flat if source is None else source.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            own = flat[start : start + _CHUNK]
            part = own if own.dtype == np.float32 else np.empty(own.size, np.float32)
            if part is not own or source is not None:
                part[...] = values[start : start + _CHUNK]
            kept = None if mask is None else part.copy()
            if shrink != 1.0:
                for low, high in _runs(sample, start, part.size):
                    part[low:high] *= np.float32(shrink)
            for term in terms:
                if not (runs := _runs(term.sample, start, part.size)):
                    continue
                indices = stream_indices(term, start, part.size)  # cheaper at once than run by run
                for low, high in runs:
                    part[low:high] += term.table[indices[low:high]]
            if mask is not None and kept is not None:
                packed = mask.view(np.uint8)[start // 8 : -(-(start + part.size) // 8)]
                left = np.unpackbits(packed, count=part.size, bitorder="little") == 0
                part[left] = kept[left]
            if part is not own:
                with np.errstate(over="ignore"):  # what float16 can't hold is infinite
                    own[...] = part


def _runs(sample: Sample | None, start: int, size: int) -> list[tuple[int, int]]:
    """Return where runs of stretches that take part begin and end, counted from ``start``."""
    if sample is None:
        return [(0, size)]
    taken = stretches(sample, start // STRETCH, -(-size // STRETCH))
    edges = STRETCH * np.flatnonzero(np.diff(taken, prepend=False, append=False))
    return [(low, min(high, size)) for low, high in edges.reshape(-1, 2).tolist()]


def directions(stream: Stream, shape: tuple[int, ...], distribution: str = "gaussian") -> Float32:
    """Return z of a stream as a new array of the given shape."""
    z = np.zeros(shape, np.float32)
    add_terms([Addition(z, [Term(stream, table(distribution, 1.0))])])
    return z
