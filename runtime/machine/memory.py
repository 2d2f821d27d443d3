"""What this process holds, from the kernel's own accounts."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray

_STATUS = Path("/proc/self/status")
_FIELDS = {
    "VmHWM": "peak",
    "VmRSS": "resident",
    "RssAnon": "anonymous",
    "VmData": "data",
    "VmSize": "address",
}
_SAMPLE_SECONDS = 0.005


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of this process; 0 where the system doesn't say.

    Attributes:
        peak: the highest ``resident`` so far.
        resident: pages in memory, mapped files included.
        anonymous: those that no file backs: only they can't be dropped and read again.
        data: private writable mappings, what RLIMIT_DATA counts.
        address: all mappings, what RLIMIT_AS counts.
        device: of a device's memory, where it has some of its own.
    """

    peak: int = 0
    resident: int = 0
    anonymous: int = 0
    data: int = 0
    address: int = 0
    device: int = 0

    def most(self, other: Held) -> Held:
        """Return the larger of each."""
        return Held(**{n: max(getattr(self, n), getattr(other, n)) for n in self.__struct_fields__})


def memory_held(*, device: int = 0) -> Held:
    """Return what this process holds now, of a device's own memory as many bytes as that says."""
    if not _STATUS.exists():
        return Held(peak=_used(), device=device)
    lines = (line.split() for line in _STATUS.read_text(encoding="ascii").splitlines())
    found = {_FIELDS[row[0][:-1]]: 1024 * int(row[1]) for row in lines if row[0][:-1] in _FIELDS}
    return Held(**found, device=device)


def peak_rss_bytes() -> int:
    """Return the highest resident set size of this process so far, in bytes."""
    return memory_held().peak


def own_pages(buffers: Iterable[NDArray[np.float32]]) -> None:
    """Write every page of C-contiguous buffers as it is.

    Copies of a file's pages become this process's memory one by one, when they are first written, which takes
    longer than writing them again. Steps that move a part of the elements get there in the course of a run:
    what a few of them take and hold says little of the others.
    """
    for buffer in buffers:
        buffer.reshape(-1).view(np.uint32)[...] |= np.uint32(0)


def _used() -> int:
    """Return the peak of ``getrusage``, which on Linux may be that of the process that started this one."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


class Watch:
    """Follows what is held from a thread: the kernel keeps the peak of resident memory alone.

    Args:
        held: returns what is held now.

    Attributes:
        most: the most of each that was seen.
    """

    def __init__(self, held: Callable[[], Held] = memory_held) -> None:
        self._held = held
        self.most = held()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.most = self.most.most(self._held())

    def _follow(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.most = self.most.most(self._held())


def give_back() -> None:
    """Return freed memory to the system, where the C library is asked for that (glibc).

    A session's copies of weights are freed in pieces that it would keep for later, and nothing later needs as much.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
