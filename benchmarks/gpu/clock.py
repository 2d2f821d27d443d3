"""Time and memory of the hardware that a provider runs on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

SAMPLE_SECONDS = 0.002


class Took(NamedTuple):
    """Seconds of one execution: on the host's clock until all is done, and between two events of the GPU's stream."""

    wall: float
    gpu: float


class Clock(Protocol):
    """Times what a function asks of the hardware, until it is done."""

    def time(self, work: Callable[[], object], times: int) -> Took:
        """Do the work so many times in a row and wait for it; return the seconds of one."""

    def used(self) -> int:
        """Return the bytes of the hardware's memory that are taken, by this process and by others."""


class HostClock:
    """The processor: it has no stream of its own, so both times are the host's."""

    def time(self, work: Callable[[], object], times: int) -> Took:
        started = time.perf_counter()
        for _ in range(times):
            work()
        took = (time.perf_counter() - started) / times
        return Took(took, took)

    def used(self) -> int:
        from zoedge.runtime.machine.memory import memory_held

        return memory_held().anonymous


class CudaClock:
    """A GPU, by events of the stream that the work is given to.

    Args:
        stream: a CuPy stream.
    """

    def __init__(self, stream: Any) -> None:
        import cupy

        self._cupy, self._stream = cupy, stream
        cupy.cuda.runtime.deviceSynchronize()  # the context is there now, and counts in no memory taken later

    def time(self, work: Callable[[], object], times: int) -> Took:
        first, last = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        self._cupy.cuda.runtime.deviceSynchronize()
        started = time.perf_counter()
        first.record(self._stream)
        for _ in range(times):
            work()
        last.record(self._stream)
        last.synchronize()
        self._cupy.cuda.runtime.deviceSynchronize()
        wall = time.perf_counter() - started
        return Took(wall / times, self._cupy.cuda.get_elapsed_time(first, last) / 1e3 / times)

    def used(self) -> int:
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return total - free


class Peak:
    """The most memory taken while in it, above what was taken before; other processes must not change theirs."""

    def __init__(self, clock: Clock) -> None:
        self._used, self._done = clock.used, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._before = self._most = self._used()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._most = max(self._most, self._used())

    @property
    def bytes(self) -> int:
        """So many."""
        return self._most - self._before

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._most = max(self._most, self._used())
