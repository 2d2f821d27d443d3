"""Buffers in the memory of a GPU, and the one place that imports CuPy."""

from __future__ import annotations

from typing import Any, NoReturn

import cupy
import numpy as np
from numpy.typing import NDArray

__all__ = ["CudaBuffer", "bare", "cupy", "stream", "uploaded"]

_STREAMS: list[Any] = []


def stream() -> Any:
    """Return the stream of all our work and of all sessions, so that what is asked for later runs later."""
    if not _STREAMS:
        # onnxruntime takes no null stream; one that blocks would wait for other libraries' work
        _STREAMS.append(cupy.cuda.Stream(non_blocking=True))
    return _STREAMS[0]


_PIECE = 1 << 24  # elements that are converted at a time, so that little memory is taken twice


def uploaded(array: NDArray[np.generic], dtype: Any) -> Any:
    """Return a copy of a host's array in the GPU's memory, in another type where that is asked for."""
    array = np.ascontiguousarray(array)
    if array.dtype == dtype:
        return cupy.asarray(array)
    converted, flat = cupy.empty(array.shape, dtype), array.reshape(-1)
    target = converted.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        target[start : start + _PIECE] = cupy.asarray(flat[start : start + _PIECE])
    return converted


class CudaBuffer:
    """An array in the GPU's memory.

    Attributes:
        array: CuPy's, C-contiguous.
        lasting: whether it keeps its address for as long as it is used, so that a CUDA graph may know it; what
            ``put`` returns doesn't, and never changes.
        origin: the float32 values that the array's were rounded from, in the host's memory; None where they aren't
            known, or the same.
    """

    __slots__ = ("array", "lasting", "origin")
    __array_ufunc__ = None  # NumPy's operators refuse it

    def __init__(self, array: Any, *, lasting: bool = True) -> None:
        self.array, self.lasting = array, lasting
        self.origin: NDArray[np.generic] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.array.shape)

    @property
    def size(self) -> int:
        """Its elements."""
        return int(self.array.size)

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return int(self.array.nbytes)

    @property
    def dtype(self) -> Any:
        """The type of its elements."""
        return self.array.dtype

    @property
    def address(self) -> int:
        """Where it lies."""
        return int(self.array.data.ptr)

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("this buffer is in a GPU's memory: ask its device for its values")


def bare(values: Any) -> Any:
    """Return what a buffer wraps, and anything else as it is."""
    return values.array if isinstance(values, CudaBuffer) else values
