"""CuPy's names over NumPy's arrays, so that all of the device for GPUs but the hardware runs in a test.

Arrays refuse to be read by NumPy, as CuPy's do; work is done at once, and events count as soon as they are recorded.
"""

import sys
import types
from contextlib import contextmanager
from importlib import import_module

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class ndarray(NDArrayOperatorsMixin):
    """An array that only this module's functions read."""

    def __init__(self, shape, dtype=np.float32, memptr=None):
        if memptr is None:
            self.a = np.empty(shape, dtype)
        else:
            self.a = memptr.view(shape, np.dtype(dtype))

    shape = property(lambda self: self.a.shape)
    size = property(lambda self: self.a.size)
    nbytes = property(lambda self: self.a.nbytes)
    ndim = property(lambda self: self.a.ndim)
    dtype = property(lambda self: self.a.dtype)
    data = property(lambda self: types.SimpleNamespace(ptr=self.a.ctypes.data))

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        found = getattr(ufunc, method)(
            *map(_inner, inputs), **kwargs, **({"out": tuple(map(_inner, out))} if out else {})
        )
        return out[0] if out else wrap(found)

    def __getitem__(self, key):
        return wrap(self.a[key])

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise TypeError("an array of the host must be uploaded first")
        self.a[key] = _inner(value)

    def get(self, stream=None, out=None, blocking=True):
        if out is None:
            return self.a.copy()
        out[...] = self.a
        return out

    def copy(self):
        return wrap(self.a.copy())

    def astype(self, dtype):
        return wrap(self.a.astype(dtype))

    def reshape(self, *shape):
        return wrap(self.a.reshape(*shape))

    def ravel(self):
        return wrap(self.a.reshape(-1))


def _inner(value):
    return value.a if isinstance(value, ndarray) else value


def wrap(array):
    one = ndarray.__new__(ndarray)
    one.a = np.asarray(array)
    return one


class UnownedMemory:
    def __init__(self, ptr, size, owner):
        self.ptr, self.size, self.owner = ptr, size, owner


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.offset = mem, offset

    def view(self, shape, dtype):
        raw = (np.ctypeslib.ctypes.c_char * self.mem.size).from_address(self.mem.ptr + self.offset)
        return np.frombuffer(raw, dtype, int(np.prod(shape))).reshape(shape)


class Event:
    def synchronize(self):
        pass


class Stream:
    """Counts what it is asked for."""

    ptr = 1

    def __init__(self, non_blocking=False):
        assert non_blocking
        self.used = 0

    def use(self):
        self.used += 1

    def record(self, event=None):
        return Event()

    def synchronize(self):
        pass


def _pool():
    return types.SimpleNamespace(free_all_blocks=lambda: None, used_bytes=lambda: 0)


def module(raw_module, memory=(8 << 30, 16 << 30)):
    """Return a module ``cupy``.

    Args:
        raw_module: stands for ``cupy.RawModule``.
        memory: bytes that are free, and all.
    """
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        memGetInfo=lambda: memory,
        getDeviceProperties=lambda index: {"name": b"a processor", "multiProcessorCount": 2},
    )
    cuda = types.SimpleNamespace(
        Stream=Stream,
        Event=Event,
        UnownedMemory=UnownedMemory,
        MemoryPointer=MemoryPointer,
        alloc_pinned_memory=bytearray,
        runtime=runtime,
    )
    made = types.ModuleType("cupy")
    vars(made).update(
        __version__="14.0",
        ndarray=ndarray,
        asarray=lambda a, dtype=None: a if isinstance(a, ndarray) else wrap(np.array(a, dtype)),
        empty=lambda shape, dtype=np.float32: wrap(np.empty(shape, dtype)),
        zeros=lambda shape, dtype=np.float32: wrap(np.zeros(shape, dtype)),
        stack=lambda arrays: wrap(np.stack([a.a for a in arrays])),
        tile=lambda array, times: wrap(np.tile(array.a, times)),
        cuda=cuda,
        RawModule=raw_module,
        get_default_memory_pool=_pool,
        get_default_pinned_memory_pool=_pool,
    )
    return made


_OURS = "zoedge.runtime.device.cuda"


def _forget():
    for name in [n for n in sys.modules if n.startswith(_OURS)]:
        del sys.modules[name]


@contextmanager
def installed(raw_module):
    """Let ``import cupy`` give the module above, and the sessions of a GPU run on the processor.

    Yields:
        the module ``zoedge.runtime.device.cuda_sessions`` made with it.
    """
    real = sys.modules.get("cupy")
    _forget()
    sys.modules["cupy"] = module(raw_module)
    try:
        cuda_missing, cuda_sessions = (import_module(_OURS + name) for name in ("_missing", "_sessions"))
        cuda_missing.check_wheel = lambda: None
        cuda_sessions.check_session = lambda session: None
        cuda_sessions._KIND, cuda_sessions._ARENAS = "cpu", "cpu:0"
        cuda_sessions.Passes._providers = lambda self, recorded: ["CPUExecutionProvider"]
        yield cuda_sessions
    finally:
        _forget()
        if real is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = real
