"""Sessions on a GPU: one whose shapes are free, and one for each shape of a step's passes, replayed as a CUDA graph.

A step's passes come again and again in a few shapes. For each there is a session in which all sizes are fixed, so that
what shapes decide is folded and every node runs on the GPU; its second run and all later ones are a replay of recorded
launches. They hold no weights. Passes that measure and step nothing have many shapes and run in the free session.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoedge.counterparts import FLOAT16, INPUTS, Kind, counterpart
from zoedge.errors import InputError, ZoedgeError
from zoedge.names import PREDICTIONS, plain
from zoedge.sessions import STALE_OPTIMIZERS

from .base import Array, Buffer, Read
from .cuda_buffer import CudaBuffer, cupy, stream, uploaded
from .cuda_missing import CUDA_PROVIDER, check_session
from .ort import ORT_ERRORS, TELL_PLACES, Places, first_line, places
from .ort import onnxruntime as ort

MOST_SHAPES = 16  # that are kept on a device: each holds the memory of a pass
_KIND, _ARENAS = "cuda", "gpu:0"
_FORMS: dict[str, Kind] = {"float32": INPUTS, "tf32": INPUTS, "float16": FLOAT16}
_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}

Binding = Any  # onnxruntime's IOBinding
Key = tuple[object, ...]


class Passes:
    """What all sessions of a device have in common.

    Args:
        precision: of products.
    """

    def __init__(self, precision: str) -> None:
        self.form = _FORMS[precision]
        self._tf32 = precision == "tf32"
        self._frozen: dict[tuple[str, str], tuple[Array, CudaBuffer]] = {}
        self.graphs = True  # until a session can't be recorded
        self.news: str | None = None  # to be told once
        self.recording = False  # a graph: nothing else may be asked of CUDA meanwhile, from any thread
        self.fixed: OrderedDict[Key, _Fixed] = OrderedDict()  # the one used last is last

    def frozen(self, name: str, array: Array, dtype: Any) -> CudaBuffer:
        """Return a frozen tensor in the GPU's memory, where it is once for all sessions."""
        key = (name, np.dtype(dtype).name)
        held = self._frozen.get(key)
        if held is None or held[0] is not array:
            held = self._frozen[key] = (array, CudaBuffer(uploaded(array, dtype)))
        return held[1]

    def open(self, path: Path, sizes: Mapping[str, int] | None = None, *, recorded: bool = False) -> Any:
        """Open a session.

        Args:
            path: of the graph.
            sizes: name of a free dimension -> its size; None leaves them free.
            recorded: whether its runs are to be recorded and replayed.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what fails raises, and is told in our words
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.enable_mem_pattern = sizes is not None
        options.add_session_config_entry(*TELL_PLACES)
        for name, size in (sizes or {}).items():
            options.add_free_dimension_override_by_name(name, size)
        session = ort.InferenceSession(
            str(path),
            options,
            providers=self._providers(recorded),
            disabled_optimizers=list(STALE_OPTIMIZERS),
        )
        check_session(session)
        return session

    def _providers(self, recorded: bool) -> list[Any]:
        settings = {
            "device_id": "0",
            "user_compute_stream": str(stream().ptr),
            "use_tf32": str(int(self._tf32)),
            "enable_cuda_graph": str(int(recorded)),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "cudnn_conv_use_max_workspace": "0",
        }
        return [(CUDA_PROVIDER, settings), "CPUExecutionProvider"]


class CudaSession:
    """A ``DeviceSession`` of the forms of a graph that take all weights as inputs.

    Raises:
        InputError: the bundle has no such form.
    """

    def __init__(
        self, graph: Path, buffers: Mapping[str, CudaBuffer], frozen: Mapping[str, Array], passes: Passes
    ) -> None:
        self._paths = {False: _form(graph, passes.form), True: _form(graph, passes.form, predictions=True)}
        if not self._paths[False].is_file():
            raise InputError(
                f"{graph.parent} has no {self._paths[False].name}, which passes on a GPU are made with: export it "
                "again with this version of zoedge"
            )
        self._passes, self._buffers, self._frozen = passes, buffers, frozen
        self._free: dict[bool, Any] = {}  # opened when a pass asks for one: each takes memory of its own
        described = _described(self._paths[False])
        ports = described.get_inputs()
        self._dtypes = {port.name: _DTYPES[port.type] for port in ports}
        self._dims = {port.name: tuple(port.shape) for port in ports}
        weights = {name for name in self._dtypes if name in buffers or name in frozen}
        self.weights = {name: self._weight(name) for name in sorted(weights)}
        self.optional = frozenset(self.weights)
        self.inputs = frozenset(self._dtypes) - weights
        self._shapes = {
            port.name: (tuple(port.shape), _DTYPES[port.type]) for port in described.get_outputs()
        }
        if self._paths[True].is_file():
            every = _described(self._paths[True]).get_outputs()
            self._shapes |= {port.name: (tuple(port.shape), _DTYPES[port.type]) for port in every}
        self.outputs = tuple(self._shapes)

    def run(self, given: Mapping[str, Buffer], wanted: Sequence[str]) -> list[Buffer]:
        """Run once in the free session; the outputs are new arrays."""
        session, inputs = self._free_session(wanted), self._typed(given)
        binding = session.io_binding()
        self._bind(binding, inputs)
        for name in wanted:
            binding.bind_output(name, _KIND, 0)
        settings = ort.RunOptions()
        settings.add_run_config_entry("memory.enable_memory_arena_shrinkage", _ARENAS)
        session.run_with_iobinding(binding, settings)
        return [_copied(value) for value in binding.get_outputs()]

    def read(self, given: Mapping[str, Buffer], wanted: Sequence[str]) -> Read:
        """Run once in the session of this shape; return what fetches the outputs."""
        return fetched([buffer.array for buffer in self._outcome(given, wanted)])

    def compute(self, given: Mapping[str, Buffer], wanted: Sequence[str]) -> list[Buffer]:
        """Run once in the session of this shape; the outputs are new arrays."""
        return [CudaBuffer(buffer.array.copy(), lasting=False) for buffer in self._outcome(given, wanted)]

    def _outcome(self, given: Mapping[str, Buffer], wanted: Sequence[str]) -> list[CudaBuffer]:
        """Run once in the session of this shape; the outputs are those of its next run, too."""
        lasting, fresh = [], {}
        for name in self.inputs:
            buffer = _cuda(given[name])
            if buffer.lasting:
                lasting.append(buffer)
            else:
                fresh[name] = buffer
        kept = self._passes.fixed
        key: Key = (id(self), *wanted, *((n, b.shape) for n, b in fresh.items()), *map(id, lasting))
        if key in kept:
            kept.move_to_end(key)
        else:
            while len(kept) >= MOST_SHAPES:
                kept.popitem(last=False)
            kept[key] = self._fixed(self._typed(given), wanted)
        return kept[key].run(fresh)

    def placed(self) -> Places | None:
        """Return where the nodes of the free session run."""
        return places(self._free_session(()))

    def _fixed(self, inputs: Mapping[str, CudaBuffer], wanted: Sequence[str]) -> _Fixed:
        """Return a session of this shape; where memory is short, others go first."""
        try:
            return self._made(inputs, wanted)
        except Exception as error:
            if not refused(error) or not self._passes.fixed:
                raise
        self._passes.fixed.clear()
        cupy.get_default_memory_pool().free_all_blocks()
        return self._made(inputs, wanted)

    def _made(self, inputs: Mapping[str, CudaBuffer], wanted: Sequence[str]) -> _Fixed:
        sizes = self._sizes(inputs)
        outputs = self._places(inputs, wanted, sizes)
        path = self._paths[PREDICTIONS in map(plain, wanted)]
        if self._passes.graphs:
            self._passes.recording = True
            try:
                fixed = _Fixed(self._passes.open(path, sizes, recorded=True), self, inputs, outputs)
                fixed.run(inputs)
                stream().synchronize()
                return fixed
            except ORT_ERRORS as error:
                if refused(error):
                    raise
                self._passes.graphs = False  # a node runs elsewhere, or can't be recorded
                self._passes.news = (
                    f"passes are not recorded as CUDA graphs, which takes longer: {first_line(error)}"
                )
            finally:
                self._passes.recording = False
        return _Fixed(self._passes.open(path, sizes), self, inputs, outputs)

    def _places(
        self, inputs: Mapping[str, CudaBuffer], wanted: Sequence[str], sizes: Mapping[str, int]
    ) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return the shape and type of each output; where its sizes aren't those of inputs, a pass tells."""
        found = {}
        for name in wanted:
            dims, dtype = self._shapes[name]
            known = [sizes.get(dim) if isinstance(dim, str) else dim for dim in dims]
            shape = tuple(size for size in known if isinstance(size, int))
            if len(shape) < len(dims):
                passed = map(_cuda, self.run(inputs, wanted))
                return {n: (b.shape, b.dtype) for n, b in zip(wanted, passed, strict=True)}
            found[name] = shape, dtype
        return found

    def _sizes(self, inputs: Mapping[str, CudaBuffer]) -> dict[str, int]:
        """Return the sizes of the free dimensions."""
        sizes: dict[str, int] = {}
        for name, buffer in inputs.items():
            for dim, size in zip(self._dims[name], buffer.shape, strict=True):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    raise ZoedgeError(f"the inputs disagree on {dim}: {name} has {size}, others {sizes[dim]}")
        return sizes

    def _typed(self, given: Mapping[str, Buffer]) -> dict[str, CudaBuffer]:
        """Return the inputs in the graph's types: what other graphs computed, or points stacked, may be of others."""
        inputs = {}
        for name in self.inputs:
            buffer = _cuda(given[name])
            if buffer.dtype != self._dtypes[name]:
                buffer = CudaBuffer(buffer.array.astype(self._dtypes[name]), lasting=False)
            inputs[name] = buffer
        return inputs

    def _weight(self, name: str) -> CudaBuffer:
        if name not in self._buffers:
            return self._passes.frozen(name, self._frozen[name], self._dtypes[name])
        buffer = self._buffers[name]
        if buffer.dtype != self._dtypes[name]:
            raise ZoedgeError(f"{name} is {self._dtypes[name].__name__} in the graph and {buffer.dtype} here")
        return buffer

    def _bind(self, binding: Binding, inputs: Mapping[str, CudaBuffer]) -> None:
        for name, buffer in (*inputs.items(), *self.weights.items()):
            bind(binding, name, buffer)

    def _free_session(self, wanted: Sequence[str]) -> Any:
        predicts = PREDICTIONS in map(plain, wanted)
        if predicts not in self._free:
            self._free[predicts] = self._passes.open(self._paths[predicts])
        return self._free[predicts]


class _Fixed:
    """A session of fixed sizes, whose inputs and outputs have their places."""

    def __init__(
        self,
        session: Any,
        owner: CudaSession,
        inputs: Mapping[str, CudaBuffer],
        outputs: Mapping[str, tuple[tuple[int, ...], Any]],
    ) -> None:
        self._session, self._binding = session, session.io_binding()
        self._owner = owner  # whose weights are bound, and whose id is in the key
        self._places = {n: b if b.lasting else CudaBuffer(b.array.copy()) for n, b in inputs.items()}
        self._given = dict(inputs)  # what was copied to the places
        self._outputs = {n: CudaBuffer(cupy.empty(shape, dtype)) for n, (shape, dtype) in outputs.items()}
        for name, buffer in (*self._places.items(), *owner.weights.items()):
            bind(self._binding, name, buffer)
        for name, buffer in self._outputs.items():
            array = buffer.array
            self._binding.bind_output(name, _KIND, 0, array.dtype.type, buffer.shape, buffer.address)
        self._settings = ort.RunOptions()
        # nothing is waited for but what the host reads
        self._settings.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, inputs: Mapping[str, CudaBuffer]) -> list[CudaBuffer]:
        """Run; return the outputs, in the order of construction, which the next run changes."""
        for name, buffer in inputs.items():
            if not buffer.lasting and buffer is not self._given[name]:
                self._places[name].array[...] = buffer.array  # in the graph's type
                self._given[name] = buffer
        self._session.run_with_iobinding(self._binding, self._settings)
        return list(self._outputs.values())


def bind(binding: Binding, name: str, buffer: CudaBuffer) -> None:
    """Let an input be a buffer, by its address."""
    binding.bind_input(name, _KIND, 0, buffer.dtype.type, buffer.shape, buffer.address)


def fetched(arrays: Sequence[Any]) -> Read:
    """Return what waits for arrays that are on their way to the host; they may change after this call."""
    queue = stream()
    found = []
    for array in arrays:
        memory = cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1))
        place = np.frombuffer(memory, array.dtype.type, int(array.size)).reshape(array.shape)
        array.get(stream=queue, out=place, blocking=False)
        found.append(place)
    there = queue.record()

    def wait() -> list[Array]:
        there.synchronize()
        return found

    return wait


def _described(path: Path) -> Any:
    """Return a session that is never run: it tells a graph's inputs and outputs, and takes nothing of the GPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def refused(error: Exception) -> bool:
    """Return whether CuPy or onnxruntime was refused the GPU's memory."""
    text = str(error).lower()
    return "memory" in text or "alloc" in text


def _copied(value: Any) -> Buffer:
    """Return an output that onnxruntime holds as an array of ours."""
    shape, dtype = tuple(value.shape()), np.dtype(_DTYPES[value.data_type()])
    size = int(np.prod(shape))
    if size == 0:
        return CudaBuffer(cupy.empty(shape, dtype), lasting=False)
    memory = cupy.cuda.UnownedMemory(value.data_ptr(), size * dtype.itemsize, value)
    seen = cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))
    return CudaBuffer(seen.copy(), lasting=False)


def _form(graph: Path, kind: Kind, *, predictions: bool = False) -> Path:
    return graph.with_name(counterpart(graph.name, kind, predictions=predictions))


def _cuda(buffer: Buffer) -> CudaBuffer:
    if not isinstance(buffer, CudaBuffer):
        raise TypeError(f"a pass on a GPU reads buffers of the GPU, not {type(buffer).__name__}")
    return buffer
