"""The processor: buffers are NumPy's arrays, which onnxruntime reads where they lie.

Trainable tensors are overridable initializers (initializer and graph input, IR >= 4): onnxruntime then neither folds
nor prepacks them, and reads the array given by ``add_initializer`` at every run. Frozen ones stay ordinary constants,
mapped from the bundle's file and prepacked: unless memory is short, when they are given as read-only maps and used
where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError, ZoedgeError
from zoedge.sessions import STALE_OPTIMIZERS, Entry, open_exact

from ..machine import limits, memory
from ..machine.limits import Limit
from ..machine.memory import Held
from ..noise import kernels
from ..noise.reference import Addition, Float32
from ..noise.sweep import Sweep, rounds
from .base import Array, Buffer, Device, DeviceSession
from .ort import TELL_PLACES, Places, places
from .ort import onnxruntime as ort
from .product import product_here

# this one writes transposed matrices to memory of its own
COPYING_OPTIMIZERS = ("ConstantFolding",)
_PIECE = 1 << 16  # elements that a rule is given at a time: 256 KiB, within a second-level cache
_ROWS = 256  # of a matrix that a product is added to at a time: bounds the temporary


class Cpu(Device):
    """NumPy's arrays, and the compiled noise where it can run.

    Raises:
        InputError: another precision than float32 is asked for.
    """

    shown_live: ClassVar[bool] = True

    def __init__(self, threads: int = 0, precision: str = "auto") -> None:
        if precision not in ("auto", "float32"):
            raise InputError(
                f"--precision {precision} is not to be had with --provider cpu, whose passes compute in float32: give "
                "--precision float32, or leave it out"
            )
        self._kernels = kernels.kernels_here(threads)
        self._product = product_here()
        self.notes = (self._kernels.note,) if self._kernels.note else ()

    def open(
        self,
        graph: Path,
        buffers: Mapping[str, Buffer],
        *,
        threads: int = 0,
        frozen: Mapping[str, Array] | None = None,
    ) -> DeviceSession:
        """Return a session that shares its initializers with us."""
        shared = {**(frozen or {}), **{name: _array(buffer) for name, buffer in buffers.items()}}
        return _Session(graph, frozenset(buffers), shared, threads, in_place=frozen is not None)

    def own(self, array: Array) -> Buffer:
        """Return the array itself where it can be written; a copy-on-write map of a file can."""
        return np.require(array, requirements=["C", "A", "W"])

    def put(self, array: Array | Buffer) -> Buffer:
        """Return the array, contiguous."""
        return np.ascontiguousarray(_array(array))

    def host(self, buffer: Buffer) -> Array:
        """Return the buffer itself."""
        return _array(buffer)

    def zeros(self, shape: tuple[int, ...]) -> Buffer:
        """Return zeros."""
        return np.zeros(shape, np.float32)

    def copy(self, buffer: Buffer) -> Buffer:
        """Return a copy."""
        return _array(buffer).copy()

    def write(self, buffer: Buffer, values: Array | Buffer) -> None:
        """Copy values into the buffer."""
        target = _array(buffer)
        np.copyto(target, _array(values).reshape(target.shape), casting="same_kind")

    def empty_stack(self, buffer: Buffer, count: int) -> Buffer:
        """Return room."""
        return np.empty((count, *buffer.shape), _array(buffer).dtype)

    def gather(self, buffers: Sequence[Buffer], stacked: Sequence[Buffer], point: int) -> None:
        """Copy one after the other."""
        for buffer, rows in zip(buffers, stacked, strict=True):
            np.copyto(_array(rows)[point], _array(buffer))

    def repeat(self, buffer: Buffer, count: int) -> Buffer:
        """Return the rows so many times."""
        array = _array(buffer)
        return np.tile(array, (count, *[1] * (array.ndim - 1)))

    def add_terms(self, additions: Sequence[Addition[Buffer]]) -> None:
        """Make the additions."""
        self._kernels.add_terms(cast("Sequence[Addition[Float32]]", additions))

    def sweep(self, sweeps: Sequence[Sweep[Buffer]]) -> None:
        """Make the sweeps."""
        for part in rounds(cast("Sequence[Sweep[Float32]]", sweeps)):
            self._kernels.sweep(part)

    def product(self, u: Buffer, s: Buffer, out: Buffer) -> None:
        """Write the product."""
        self._product(_float32(u), _float32(s), _float32(out))

    def add_product(self, matrix: Buffer, left: NDArray[np.float32], right: NDArray[np.float32]) -> None:
        """Add the product, some rows at a time."""
        target = _float32(matrix).reshape(len(left), -1)
        for start in range(0, len(left), _ROWS):
            target[start : start + _ROWS] += left[start : start + _ROWS] @ right

    def shrink(self, buffer: Buffer, factor: float) -> None:
        """Multiply in place."""
        target = _float32(buffer)
        target *= np.float32(factor)

    def pieces(self, buffers: Mapping[str, Buffer]) -> Iterator[dict[str, Any]]:
        """Yield pieces that stay in the cache."""
        flat = {name: _float32(buffer).reshape(-1) for name, buffer in buffers.items()}
        for start in range(0, next(iter(flat.values())).size, _PIECE):
            yield {name: array[start : start + _PIECE] for name, array in flat.items()}

    def settle_pages(self, buffers: Iterable[Buffer]) -> None:
        """Make the pages of copy-on-write maps this process's own."""
        memory.own_pages(_float32(buffer) for buffer in buffers)

    def held(self) -> Held:
        """Return what this process holds."""
        return memory.memory_held()

    def limits(self, now: Held) -> list[Limit]:
        """Return the limits of this process."""
        return limits.limits(now)

    def give_back(self) -> None:
        """Let the C library return what it keeps."""
        memory.give_back()


class _Session:
    """A ``DeviceSession`` whose initializers are arrays of ours."""

    def __init__(
        self,
        graph: Path,
        buffers: frozenset[str],
        shared: Mapping[str, Array],
        threads: int,
        *,
        in_place: bool,
    ) -> None:
        self._keep = {
            name: (ort.OrtValue.ortvalue_from_numpy(array), array) for name, array in shared.items()
        }
        for name, (value, array) in self._keep.items():
            if value.data_ptr() != array.ctypes.data:
                raise ZoedgeError(
                    f"onnxruntime copied {name} instead of sharing it: its buffer must be contiguous"
                )
        copying = COPYING_OPTIMIZERS if in_place else ()

        def open_session(entries: tuple[Entry, ...]) -> ort.InferenceSession:
            options = _options(threads, entries, in_place=in_place)
            for name, (value, _) in self._keep.items():
                options.add_initializer(name, value)
            return ort.InferenceSession(
                str(graph),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=[*STALE_OPTIMIZERS, *copying],
            )

        self._session = open_exact(open_session, str(graph))
        self.optional = frozenset(i.name for i in self._session.get_overridable_initializers())
        self.inputs = frozenset(i.name for i in self._session.get_inputs()) - buffers
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def run(self, given: Mapping[str, Buffer], wanted: Sequence[str]) -> list[Buffer]:
        """Run once; the outputs are new arrays."""
        binding = self._session.io_binding()
        for name, value in given.items():
            if name in self.inputs:
                binding.bind_cpu_input(name, _array(value))
            else:  # that call knows no initializers
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(_array(value)))
        for name in wanted:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def placed(self) -> Places | None:
        """Return what onnxruntime tells."""
        return places(self._session)


def _options(threads: int, entries: tuple[Entry, ...], *, in_place: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails raises, and is told in our words
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.enable_mem_pattern = False  # shapes differ from batch to batch
    # its arena holds less than the C library's allocator, which splits what it gets back, but asks for more
    # address space than it fills: where memory is short, that counts against limits
    options.enable_cpu_mem_arena = not in_place
    options.intra_op_num_threads = threads
    # threads that spin after a run would steal the cores from the noise kernel
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(*TELL_PLACES)
    if in_place:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for key, setting in entries:
        options.add_session_config_entry(key, setting)
    return options


def _array(buffer: Buffer | Array) -> Array:
    return cast("Array", buffer)


def _float32(buffer: Buffer) -> Float32:
    return cast("Float32", buffer)
