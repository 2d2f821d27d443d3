"""A GPU of NVIDIA: buffers are CuPy's arrays, which onnxruntime's CUDA provider reads where they lie.

Every tensor of a bundle, trained or frozen, is an input of the graphs that run here and bound by its address: sessions
hold no weights, so one for each shape of a pass costs little, and what moves is seen by the next pass. All work goes to
one stream and is only waited for where the host reads a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from zoedge.counterparts import ORIGINALS

from ..machine import limits, memory
from ..machine.limits import Limit
from ..machine.memory import Held
from ..noise.cuda_kernel import OPTIONS, Launches, LaunchTable, cuda_source
from ..noise.reference import Addition
from ..noise.sweep import Sweep
from .base import Array, Buffer, Device, DeviceSession, Grain, Read
from .cuda_buffer import CudaBuffer, bare, cupy, stream, uploaded
from .cuda_sessions import CudaSession, Passes, refused
from .ort import onnxruntime

_FATAL = 4
# of a launch, for each multiprocessor: on an H100 a family of 197 tensors took 1.04 of a copy with 16, 0.99 with 64
_BLOCKS_EACH = 64


class Cuda(Device):
    """The first GPU that is visible.

    Args:
        threads: has no effect here.
        precision: of the products in a pass. Sums and losses are float32 in all of them, and so is what moves.
    """

    # every shape costs a CUDA graph, and a pass of few tokens costs its launches
    grain: ClassVar[Grain] = Grain(rows=1, tokens=16, positions=8, overhead=1024)
    tokens_together: ClassVar[int | None] = 8192
    weights_only: ClassVar[bool] = True
    own_memory: ClassVar[str] = "memory of the GPU"
    takes_frozen: ClassVar[bool] = True
    ahead: ClassVar[int] = 64
    precisions: ClassVar[tuple[str, ...]] = ("float16", "tf32", "float32")

    def __init__(self, threads: int = 0, precision: str = "auto") -> None:
        onnxruntime.set_default_logger_severity(_FATAL)  # what fails raises, and is told in our words
        self._stream = stream()
        self._stream.use()
        self.precision = "float32" if precision == "auto" else precision
        self.out_of_place = self.precision == "float16"
        kernels = cupy.RawModule(code=cuda_source(), options=OPTIONS)
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        blocks = _BLOCKS_EACH * int(properties["multiProcessorCount"])
        self._launches = Launches(kernels.get_function, cupy.asarray, _address, blocks)
        # by the id of the tuple that they tell of, which is kept alive
        self._tables: dict[int, tuple[Sequence[object], LaunchTable]] = {}
        self._passes = Passes(self.precision)
        free, total = cupy.cuda.runtime.memGetInfo()
        self._elsewhere, self._last = total - free, 0  # held by others, and by this process when last looked

    def open(
        self,
        graph: Path,
        buffers: Mapping[str, Buffer],
        *,
        threads: int = 0,
        frozen: Mapping[str, Array] | None = None,
    ) -> DeviceSession:
        """Return sessions of the graph's form for GPUs, one a shape."""
        own = {name: _buffer(buffer) for name, buffer in buffers.items()}
        return CudaSession(graph, own, frozen or {}, self._passes)

    def opens(self, file: str) -> bool:
        """Return whether the graph has a form without weights."""
        return file in ORIGINALS

    def own(self, array: Array) -> Buffer:
        """Return a copy; of the passes' precision, where they read no float32."""
        if not self.out_of_place:
            return CudaBuffer(uploaded(array, np.float32))
        buffer = CudaBuffer(uploaded(array, np.float16))
        buffer.origin = np.asarray(array, np.float32)
        return buffer

    def master(self, buffer: Buffer) -> Buffer:
        """Return the float32 values that were written last."""
        origin = _buffer(buffer).origin
        return self.copy(buffer) if origin is None else CudaBuffer(cupy.asarray(origin))

    def put(self, array: Array | Buffer) -> Buffer:
        """Return a copy in the GPU's memory."""
        if isinstance(array, CudaBuffer):
            return array
        return CudaBuffer(cupy.asarray(np.ascontiguousarray(array)), lasting=False)

    def host(self, buffer: Buffer) -> Array:
        """Return a copy, of the float32 values that were written last where there are any."""
        held = _buffer(buffer)
        return cast("Array", held.array.get()) if held.origin is None else held.origin

    def compute(
        self, session: DeviceSession, given: Mapping[str, Buffer], wanted: Sequence[str]
    ) -> list[Buffer]:
        """Return copies of the outputs of a pass that is on its way."""
        return cast("CudaSession", session).compute(given, wanted)

    def read(self, session: DeviceSession, given: Mapping[str, Buffer], wanted: Sequence[str]) -> Read:
        """Return what fetches the outputs of a pass that is on its way."""
        return cast("CudaSession", session).read(given, wanted)

    def zeros(self, shape: tuple[int, ...]) -> Buffer:
        """Return zeros."""
        return CudaBuffer(cupy.zeros(shape, np.float32))

    def copy(self, buffer: Buffer) -> Buffer:
        """Return a copy."""
        return CudaBuffer(bare(buffer).copy())

    def write(self, buffer: Buffer, values: Array | Buffer) -> None:
        """Copy values into the buffer."""
        target, given = _buffer(buffer), bare(values)
        if not np.can_cast(given.dtype, np.float32, "same_kind"):
            raise TypeError(f"a buffer holds float32, not {given.dtype}")
        shaped = given.reshape(target.shape)
        target.origin = None
        if not isinstance(values, CudaBuffer):
            shaped = np.ascontiguousarray(shaped, np.float32)
            if target.dtype == np.float16:
                target.origin = shaped.copy()
            shaped = cupy.asarray(shaped)
        target.array[...] = shaped

    def alone(self, buffer: Buffer) -> Buffer:
        """Return a view."""
        held = _buffer(buffer)
        return CudaBuffer(held.array.reshape(1, *held.shape), lasting=held.lasting)

    def repeat(self, buffer: Buffer, count: int) -> Buffer:
        """Return the rows so many times."""
        array = bare(buffer)
        return CudaBuffer(cupy.tile(array, (count, *[1] * (array.ndim - 1))), lasting=False)

    def empty_stack(self, buffer: Buffer, count: int) -> Buffer:
        """Return room for a buffer's values at several points."""
        array = bare(buffer)
        return CudaBuffer(cupy.zeros((count, *array.shape), array.dtype))

    def first(self, stacked: Buffer, count: int) -> Buffer:
        """Return the first so many of stacked values where they lie."""
        return CudaBuffer(bare(stacked)[:count])

    def gather(self, buffers: Sequence[Buffer], stacked: Sequence[Buffer], point: int) -> None:
        """Copy all of them in one launch."""
        table = self._table(stacked, lambda: self._launches.copies(buffers, stacked))
        self._launches.gather(table, point)

    def add_terms(self, additions: Sequence[Addition[Buffer]]) -> None:
        """Make the additions in one launch."""
        self._changed(addition.target for addition in additions)
        self._launches.add_terms(additions)

    def sweep(self, sweeps: Sequence[Sweep[Buffer]]) -> None:
        """Make the sweeps in one launch."""
        for sweep in sweeps:
            self._changed(sweep.family.targets)
        self._launches.sweep(sweeps)

    def product(self, u: Buffer, s: Buffer, out: Buffer) -> None:
        """Write the product."""
        self.products([(u, s, out)])

    def products(self, triples: Sequence[tuple[Buffer, Buffer, Buffer]]) -> None:
        """Write all products in one launch."""
        if self.out_of_place:
            self._changed([out for _, _, out in triples])
        self._launches.products(self._table(triples, lambda: self._launches.triples(triples)))

    def add_product(self, matrix: Buffer, left: NDArray[np.float32], right: NDArray[np.float32]) -> None:
        """Add the product."""
        array = bare(matrix)
        array.reshape(len(left), -1)[...] += cupy.asarray(left) @ cupy.asarray(np.ascontiguousarray(right))

    def shrink(self, buffer: Buffer, factor: float) -> None:
        """Multiply in place."""
        array = bare(buffer)
        array *= np.float32(factor)

    def pieces(self, buffers: Mapping[str, Buffer]) -> Iterator[dict[str, Any]]:
        """Yield whole buffers, flat."""
        yield {name: bare(buffer).reshape(-1) for name, buffer in buffers.items()}

    def held(self) -> Held:
        """Return what this process holds, and the GPU's memory since it was opened."""
        if not self._passes.recording:
            free, total = cupy.cuda.runtime.memGetInfo()
            self._last = max(0, total - free - self._elsewhere)
        return memory.memory_held(device=self._last)

    def limits(self, now: Held) -> list[Limit]:
        """Return the limits of this process, and what is free on the GPU."""
        free, _ = cupy.cuda.runtime.memGetInfo()
        return [*limits.limits(now), Limit(self.own_memory, "device", now.device + free)]

    def hardware(self) -> str:
        """Return the GPU's name."""
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"]
        return name.decode() if isinstance(name, bytes) else str(name)

    def out_of_memory(self, error: Exception) -> bool:
        """Return whether CuPy or onnxruntime was refused memory."""
        return refused(error)

    def news(self) -> str | None:
        """Tell why passes can't be recorded, once."""
        news, self._passes.news = self._passes.news, None
        return news

    def wait(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def give_back(self) -> None:
        """Free what CuPy keeps for later."""
        memory.give_back()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def _changed(self, buffers: Iterable[Buffer]) -> None:
        """Forget what was written to buffers that are moved on."""
        if self.out_of_place:
            for buffer in buffers:
                _buffer(buffer).origin = None

    def _table(self, told: Sequence[object], make: Callable[[], LaunchTable]) -> LaunchTable:
        """Return the table of a launch that may be made again and again, with the very same tuple."""
        kept = self._tables.get(id(told))
        if kept is not None and kept[0] is told:
            return kept[1]
        table = make()
        if isinstance(told, tuple):
            self._tables[id(told)] = told, table
        return table


def _buffer(buffer: Buffer) -> CudaBuffer:
    return cast("CudaBuffer", buffer)


def _address(held: Any) -> int:
    """Return where a buffer or an array lies."""
    return int(bare(held).data.ptr)
