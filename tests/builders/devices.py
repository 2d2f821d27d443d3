"""Devices that only tests have."""

from collections import Counter
from typing import ClassVar

import numpy as np

from zoedge.runtime.device import Cpu, Device
from zoedge.runtime.machine.limits import Limit
from zoedge.runtime.machine.memory import memory_held
from zoedge.runtime.noise import reference


class Reference(Cpu):
    """The processor with the noise specification's reference, uncompiled."""

    def add_terms(self, additions):
        reference.add_terms(additions)

    def sweep(self, sweeps):
        Device.sweep(self, sweeps)


class Hidden:
    """A buffer that nothing but its device can read."""

    __array_ufunc__ = None  # NumPy's operators refuse it
    alive: ClassVar[int] = 0  # bytes of all there are

    def __init__(self, array):
        self.array = array
        Hidden.alive += array.nbytes

    def __del__(self):
        Hidden.alive -= self.array.nbytes

    shape = property(lambda self: self.array.shape)
    size = property(lambda self: self.array.size)
    nbytes = property(lambda self: self.array.nbytes)

    def __array__(self, *args, **kwargs):
        raise TypeError("this buffer is on a device")


class Counting(Device):
    """A device of its own memory, which counts what it is asked for; what it computes is the processor's.

    Attributes:
        calls: name of a method -> how often it was called, by all devices together.
        size: bytes of its memory.
        given_frozen: whether each graph that was opened was given frozen tensors.
    """

    calls: ClassVar[Counter] = Counter()
    own_memory: ClassVar[str] = "counter"
    size: ClassVar[int] = 1 << 30
    given_frozen: ClassVar[list[bool]] = []

    def __init__(self, threads=0, precision="auto"):
        self._cpu = Reference(threads, precision)

    def open(self, graph, buffers, *, threads=0, frozen=None):
        self.calls["open"] += 1
        self.given_frozen.append(frozen is not None)
        inner = self._cpu.open(
            graph, {n: b.array for n, b in buffers.items()}, threads=threads, frozen=frozen
        )
        return CountingSession(inner, self.calls)

    def own(self, array):
        return Hidden(np.array(array, np.float32))  # a copy, as memory elsewhere is

    def put(self, array):
        if isinstance(array, Hidden):
            return array
        self.calls["put"] += 1
        return Hidden(np.array(array))

    def host(self, buffer):
        return buffer.array.copy()

    def zeros(self, shape):
        return Hidden(np.zeros(shape, np.float32))

    def copy(self, buffer):
        return Hidden(buffer.array.copy())

    def write(self, buffer, values):
        self._cpu.write(buffer.array, bare(values))

    def alone(self, buffer):
        return Hidden(buffer.array[None])

    def empty_stack(self, buffer, count):
        return Hidden(self._cpu.empty_stack(buffer.array, count))

    def first(self, stacked, count):
        return Hidden(stacked.array[:count])

    def gather(self, buffers, stacked, point):
        self.calls["gather"] += 1
        self._cpu.gather([b.array for b in buffers], [s.array for s in stacked], point)

    def repeat(self, buffer, count):
        return Hidden(self._cpu.repeat(buffer.array, count))

    def add_terms(self, additions):
        self.calls["add_terms"] += 1
        self._cpu.add_terms(
            [
                a._replace(
                    target=a.target.array, mask=a.mask and a.mask.array, source=a.source and a.source.array
                )
                for a in additions
            ]
        )

    def product(self, u, s, out):
        self._cpu.product(u.array, s.array, out.array)

    def add_product(self, matrix, left, right):
        self._cpu.add_product(matrix.array, left, right)

    def shrink(self, buffer, factor):
        self._cpu.shrink(buffer.array, factor)

    def pieces(self, buffers):
        yield from self._cpu.pieces({n: b.array for n, b in buffers.items()})

    def held(self):
        return memory_held(device=Hidden.alive)

    def limits(self, now):
        return [*self._cpu.limits(now), Limit("memory of the counter", "device", self.size)]


class CountingSession:
    def placed(self):
        return self._inner.placed()

    def __init__(self, inner, calls):
        self._inner, self._calls = inner, calls
        self.inputs, self.optional, self.outputs = inner.inputs, inner.optional, inner.outputs

    def run(self, given, wanted):
        self._calls["run"] += 1
        return [Hidden(x) for x in self._inner.run({n: b.array for n, b in given.items()}, wanted)]


def bare(values):
    return values.array if isinstance(values, Hidden) else values
