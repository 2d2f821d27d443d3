"""Launches of the kernels that CUDA compiles: one for all tensors of a call.

Nothing here needs CuPy: what compiles, uploads and tells addresses is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .reference import LEVELS, Addition
from .sweep import Family, Sweep, rounds
from .work import Address, Work, family_rows

OPTIONS = ("--std=c++17",)
ENTRIES = ("add_terms", "sweep", "sweep_staying", "gather", "products")

_FILES = ("warps.cu", "tiles.cu", "kernel.cu", "copies.cu")  # in the order in which they need each other
_THREADS = 256
_WARPS = _THREADS // 32
_WORDS = 1024 * _WARPS  # bytes of shared memory for the stream
_TABLE = 1024  # bytes of a term's table
_TABLES = 40 * _TABLE  # with the words 48 KiB, what a block has without being asked
_TILES = 4  # of a chunk: as many as warps work on at once
_PIECE = 4096  # bytes that a warp copies in its turn
_OUTPUTS = 256  # elements of a product that a warp computes in its turn

# what the kernels read, as they lay it out
_SWEEP = np.dtype(
    {
        "names": ["first", "rows", "count", "seed", "term", "shrink", "stays", "level", "levels"],
        "formats": ["i8", "u8", "i8", "u8", "i8", "f8", "i8", "i8", "i8"],
    }
)
# of each distribution half its levels: the others are the same with their signs turned
_HALVES = [levels[: levels.size // 2] for levels in LEVELS.values()]
_STARTS = dict(zip(LEVELS, accumulate((half.size for half in _HALVES), initial=0), strict=False))
_AMOUNT = np.dtype([("step", "u8"), ("probe", "u8"), ("scale", "f8")])


class Kernel(Protocol):
    """One entry, as ``cupy.RawKernel`` is called."""

    def __call__(
        self, grid: tuple[int], block: tuple[int], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        """Launch it."""


class LaunchTable(NamedTuple):
    """What a launch reads that doesn't change from launch to launch.

    Attributes:
        array: on the device.
        rows: how many, without the end.
        turns: of warps; what is worked through.
    """

    array: Any
    rows: int
    turns: int


def cuda_source() -> str:
    """Return the text that is to be compiled with ``OPTIONS``."""
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _FILES)


class Launches:
    """Noise, copies and products of many buffers on one GPU.

    Args:
        kernel: an entry by its name, of ``ENTRIES``.
        upload: copies bytes, uint8 [n], to a new array on the device, aligned to 16 bytes.
        address: where an array or buffer of the device lies.
        blocks: most of a launch: 16 for each multiprocessor are fast.
    """

    def __init__(
        self,
        kernel: Callable[[str], Kernel],
        upload: Callable[[NDArray[np.uint8]], Any],
        address: Address,
        blocks: int,
    ) -> None:
        self._kernels = {name: kernel(name) for name in ENTRIES}
        self._upload, self._address, self._blocks = upload, address, blocks
        self._levels = upload(_bytes(np.concatenate(_HALVES)))
        self._families: WeakKeyDictionary[Family[Any], LaunchTable] = WeakKeyDictionary()

    def add_terms(self, additions: Sequence[Addition[Any]]) -> None:
        """Make additions to buffers that don't overlap; bits and contract are ``reference.add_terms``'s.

        Raises:
            ValueError: a buffer, source or mask of another kind or size than the kernel reads.
        """
        for addition in additions:
            _check(addition)
        work = Work.of(additions, self._address)
        staged = work.levels.size if work.levels.nbytes <= _TABLES else 0
        arrays, held = self._packed(work)
        args = (*arrays[:1], np.int64(len(additions)), *arrays[1:], np.int64(staged))
        turns = _TILES * int(work.additions[-1, 0])
        self._launch("add_terms", turns, args, held, shared=_WORDS + 4 * staged)

    def sweep(self, sweeps: Sequence[Sweep[Any]]) -> None:
        """Make sweeps over families that don't overlap: the same bits as their additions."""
        if not sweeps:
            return
        if sum(len(sweep.terms) for sweep in sweeps) * _TABLE > _TABLES:
            for part in rounds(sweeps):
                self.add_terms([addition for sweep in part for addition in sweep.additions()])
            return
        heads = np.zeros(len(sweeps) + 1, _SWEEP)
        amounts = [term for sweep in sweeps for term in sweep.terms]
        chunk = term = 0
        for i, (family, seed, terms, name, shrink, stays) in enumerate(sweeps):
            table = self._family(family)
            place = self._address(table.array)
            kept = -1 if stays is None else term + stays
            levels = _STARTS[name], LEVELS[name].size
            heads[i] = (chunk, place, table.rows, seed, term, shrink, kept, *levels)
            chunk, term = chunk + table.turns // _TILES, term + len(terms)
        heads[-1]["first"], heads[-1]["term"] = chunk, term
        arrays, held = self._packed((heads, np.array(amounts, _AMOUNT)))
        args = (arrays[0], np.int64(len(sweeps)), arrays[1], np.uint64(self._address(self._levels)))
        entry = "sweep" if all(sweep.stays is None for sweep in sweeps) else "sweep_staying"
        self._launch(entry, _TILES * chunk, args, held, shared=_WORDS + _TABLE * term)

    def copies(self, buffers: Sequence[Any], stacked: Sequence[Any]) -> LaunchTable:
        """Return what ``gather`` reads: each of the buffers goes to its place in ``stacked[i]``, [count, ...]."""
        bytes_ = [buffer.nbytes for buffer in buffers]
        columns = [[self._address(array) for array in arrays] for arrays in (buffers, stacked)]
        return self._table([*columns, bytes_], [-(-size // _PIECE) for size in bytes_])

    def gather(self, copies: LaunchTable, point: int) -> None:
        """Copy all buffers to where a point's values are."""
        args = (copies.array, np.int64(copies.rows), np.int64(point))
        self._launch("gather", copies.turns, args)

    def triples(self, triples: Sequence[tuple[Any, Any, Any]]) -> LaunchTable:
        """Return what ``products`` reads: (u [n, R], s [R, R], out [n, R]), of which out may be float16."""
        columns = [[self._address(triple[i]) for triple in triples] for i in range(3)]
        elements = [out.size for _, _, out in triples]
        ranks = [s.shape[0] for _, s, _ in triples]
        halves = [int(out.dtype == np.float16) for _, _, out in triples]
        return self._table([*columns, elements, ranks, halves], [-(-size // _OUTPUTS) for size in elements])

    def products(self, triples: LaunchTable) -> None:
        """Let each out be u @ s, summed over the columns of u one after the other."""
        self._launch("products", triples.turns, (triples.array, np.int64(triples.rows)))

    def _family(self, family: Family[Any]) -> LaunchTable:
        if (table := self._families.get(family)) is None:
            rows = family_rows(family, self._address)
            table = LaunchTable(self._upload(_bytes(rows)), len(rows) - 1, _TILES * int(rows[-1, 0]))
            self._families[family] = table
        return table

    def _table(self, columns: Sequence[Sequence[int]], turns: Sequence[int]) -> LaunchTable:
        """Upload columns behind that of each row's first turn, and an end."""
        rows = np.zeros((len(turns) + 1, len(columns) + 1), np.int64)
        rows[1:, 0] = np.cumsum(turns)
        rows[:-1, 1:] = np.array(columns, np.int64).T.reshape(len(turns), -1)
        return LaunchTable(self._upload(_bytes(rows)), len(turns), int(rows[-1, 0]))

    def _packed(self, arrays: Sequence[NDArray[Any]]) -> tuple[list[np.uint64], Any]:
        """Upload arrays in one; return where each lies, and what must live until the launch."""
        parts, offsets, size = [], [], 0
        for array in arrays:
            raw = _bytes(array)
            padding = np.zeros(-raw.size % 16, np.uint8)
            parts += [raw, padding]
            offsets.append(size)
            size += raw.size + padding.size
        held = self._upload(np.concatenate(parts))
        return [np.uint64(self._address(held) + offset) for offset in offsets], held

    def _launch(
        self, name: str, turns: int, args: tuple[Any, ...], held: Any = None, *, shared: int = 0
    ) -> None:
        """Launch as many warps as have something to do; ``held`` is freed behind it, in the order of the stream."""
        if turns:
            blocks = min(-(-turns // _WARPS), self._blocks)
            self._kernels[name]((blocks,), (_THREADS,), args, shared_mem=shared)


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _check(addition: Addition[Any]) -> None:
    """Refuse what the kernel would leave or misread.

    Raises:
        ValueError: it is.
    """
    target, mask, source = addition.target, addition.mask, addition.source
    if target.dtype not in (np.float32, np.float16):
        raise ValueError(f"noise is added to float32 and float16 buffers only, not {target.dtype}")
    if mask is not None and mask.nbytes != -(-target.size // 8):
        raise ValueError(f"a mask has a bit for each of {target.size} elements, not {mask.nbytes} bytes")
    if source is not None and (source.dtype != np.float32 or source.size != target.size):
        raise ValueError(f"a source has {target.size} float32 values")
