"""What passes and moves need of the hardware they run on: memory, arithmetic on it, and sessions that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..machine.limits import Limit
from ..machine.memory import Held
from ..noise.reference import Addition
from ..noise.sweep import Sweep, rounds
from .ort import ORT_ERRORS, Places, first_line, onnxruntime

Array = NDArray[np.generic]  # in the host's memory
Read = Callable[[], list[Array]]  # waits for what a pass gives


class Buffer(Protocol):
    """An array in a device's memory, which only the device reads and changes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def size(self) -> int:
        """Its elements."""

    @property
    def nbytes(self) -> int:
        """Its bytes."""


class Grain(NamedTuple):
    """What the shapes of passes are multiples of, so that few of them occur.

    Attributes:
        rows: of a pass; rows that only fill it up mean nothing.
        tokens: padded ones of a row, where it has tokens and the model takes as many.
        positions: padded ones of a row at which there is a label.
        overhead: what one more pass costs, in tokens. Where it is the default, a 6-layer encoder took the same time
            per step for 0 to 128, and 3.5 times as long with rows of all lengths in one pass (SST-2, 64 rows).
    """

    rows: int = 1
    tokens: int = 4
    positions: int = 4
    overhead: int = 64


FINE = Grain()


class DeviceSession(Protocol):
    """A graph that was opened on a device.

    Attributes:
        inputs: names of what must be given to a run, the buffers left out.
        optional: names of initializers that a run may override, buffers among them.
        outputs: names of what it computes.
    """

    inputs: frozenset[str]
    optional: frozenset[str]
    outputs: tuple[str, ...]

    def run(self, given: Mapping[str, Buffer], wanted: Sequence[str]) -> list[Buffer]:
        """Return the outputs that are wanted, in that order, at the present values of the session's buffers.

        Args:
            given: all ``inputs``, and any ``optional`` ones.
            wanted: of ``outputs``.

        Raises:
            Device.errors: the pass failed.
        """

    def placed(self) -> Places | None:
        """Return which provider runs how many nodes of which operator; None where onnxruntime doesn't tell."""


class Device:
    """Memory, arithmetic and sessions of one kind of hardware.

    Made with the threads that its moves may use, 0 for one per usable core, and the precision of passes that the user
    asked for; refuses one that it doesn't have.

    Arithmetic on float32 buffers rounds every product and sum to float32, in the order given: a journal is replayed
    to the same bits on any device.

    Attributes:
        grain: of the shapes of passes.
        ahead: passes whose outputs may be on their way while the next are asked for.
        tokens_together: padded tokens that a pass shared by several points has at most, where sharing changes how
            sums are rounded and always gains; None where it is timed and taken with the same bits alone.
        weights_only: whether int8 bases keep activations as floats here, so that rows of a pass round by themselves.
        own_memory: what messages call its memory; "" where that is the host's.
        shown_live: whether export showed that trained tensors are read here, and no copies of them.
        takes_frozen: whether sessions are always given the frozen tensors, whatever ``--prepack`` says.
        errors: what ``open``, and a session's ``run``, raise where onnxruntime can't.
        precisions: that passes can have, the fastest first.
        precision: in which they compute.
        out_of_place: whether moves need masters beside the buffers, as sessions read another type than float32.
        notes: sentences the user should read.
    """

    grain: ClassVar[Grain] = FINE
    tokens_together: ClassVar[int | None] = None
    weights_only: ClassVar[bool] = False
    ahead: ClassVar[int] = 0
    own_memory: ClassVar[str] = ""
    shown_live: ClassVar[bool] = False
    takes_frozen: ClassVar[bool] = False
    errors: ClassVar[tuple[type[Exception], ...]] = ORT_ERRORS
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    precision: str = "float32"
    out_of_place: bool = False
    notes: tuple[str, ...] = ()

    def open(
        self,
        graph: Path,
        buffers: Mapping[str, Buffer],
        *,
        threads: int = 0,
        frozen: Mapping[str, Array] | None = None,
    ) -> DeviceSession:
        """Return a session of a graph that reads our buffers in place.

        Args:
            graph: path of the ``.onnx`` file.
            buffers: trainable name -> its buffer; changes to it are seen by the next run.
            threads: intra-op threads; 0 leaves the choice to onnxruntime.
            frozen: name -> array of frozen tensors to use where they lie; None lets onnxruntime load, fold and
                prepack them, which is faster on short inputs and holds a second copy of every matrix.

        Raises:
            Device.errors: onnxruntime can't run the graph.
            InputError: not on this device.
        """
        raise NotImplementedError

    def opens(self, file: str) -> bool:
        """Return whether sessions of a bundle's graph can be opened here, where the bundle has all its forms."""
        return True

    def failure(self, error: Exception) -> str:
        """Return what one of ``errors`` says, in a line."""
        return first_line(error)

    def runner(self) -> str:
        """Return what runs the graphs, with its version."""
        return f"onnxruntime {onnxruntime.__version__}"

    def hardware(self) -> str:
        """Return what its maker calls it; "" where that isn't known."""
        return ""

    def own(self, array: Array) -> Buffer:
        """Return a buffer that begins with an array's values; the array may become that buffer."""
        raise NotImplementedError

    def put(self, array: Array | Buffer) -> Buffer:
        """Return a buffer of an array's values to be read only: what already is one stays."""
        raise NotImplementedError

    def host(self, buffer: Buffer) -> Array:
        """Return a buffer's values to be read only, before it changes next: it may be the buffer itself."""
        raise NotImplementedError

    def compute(
        self, session: DeviceSession, given: Mapping[str, Buffer], wanted: Sequence[str]
    ) -> list[Buffer]:
        """Run a session as a pass of a step does, whose shapes come again and again; return what its ``run`` does.

        Args:
            session: one that ``open`` returned.
            given, wanted: as for its ``run``.
        """
        return session.run(given, wanted)

    def read(self, session: DeviceSession, given: Mapping[str, Buffer], wanted: Sequence[str]) -> Read:
        """Run a session as ``compute`` does; return what fetches its outputs, in order."""
        outputs = [self.host(buffer) for buffer in session.run(given, wanted)]
        return lambda: outputs

    def zeros(self, shape: tuple[int, ...]) -> Buffer:
        """Return a new float32 buffer of zeros."""
        raise NotImplementedError

    def copy(self, buffer: Buffer) -> Buffer:
        """Return a new buffer of the same values."""
        raise NotImplementedError

    def master(self, buffer: Buffer) -> Buffer:
        """Return the float32 values that a session's buffer begins with, as a buffer of its own that moves change."""
        return self.copy(buffer)

    def write(self, buffer: Buffer, values: Array | Buffer) -> None:
        """Give a buffer values: those of another of its shape, or of an array of as many elements."""
        raise NotImplementedError

    def alone(self, buffer: Buffer) -> Buffer:
        """Return a buffer as the values at a single point, [1, ...], where it lies."""
        return cast("Buffer", cast("Any", buffer)[None])

    def empty_stack(self, buffer: Buffer, count: int) -> Buffer:
        """Return room for a buffer's values at some points, [count, ...], of its kind."""
        raise NotImplementedError

    def first(self, stacked: Buffer, count: int) -> Buffer:
        """Return the first so many of stacked values where they lie, [count, ...]."""
        return cast("Buffer", cast("Any", stacked)[:count])

    def gather(self, buffers: Sequence[Buffer], stacked: Sequence[Buffer], point: int) -> None:
        """Copy each buffer to ``stacked[i][point]``, where ``stacked[i]`` is [count, ...] of its shape and kind."""
        raise NotImplementedError

    def repeat(self, buffer: Buffer, count: int) -> Buffer:
        """Return a buffer's rows again and again, [count x rows, ...]."""
        raise NotImplementedError

    def add_terms(self, additions: Sequence[Addition[Buffer]]) -> None:
        """Make additions to buffers that don't overlap; see ``noise.reference.add_terms``."""
        raise NotImplementedError

    def sweep(self, sweeps: Sequence[Sweep[Buffer]]) -> None:
        """Make sweeps over families that don't overlap: the same bits as their additions."""
        for part in rounds(sweeps):
            self.add_terms([addition for sweep in part for addition in sweep.additions()])

    def product(self, u: Buffer, s: Buffer, out: Buffer) -> None:
        """Let out [n, R] be u [n, R] @ s [R, R], summed over the columns of u one after the other."""
        raise NotImplementedError

    def products(self, triples: Sequence[tuple[Buffer, Buffer, Buffer]]) -> None:
        """Make the products of all (u, s, out)."""
        for u, s, out in triples:
            self.product(u, s, out)

    def add_product(self, matrix: Buffer, left: NDArray[np.float32], right: NDArray[np.float32]) -> None:
        """Add left [n, r] @ right [r, m] to a matrix [n, ...] of as many elements."""
        raise NotImplementedError

    def shrink(self, buffer: Buffer, factor: float) -> None:
        """Multiply a buffer by a factor rounded to float32."""
        raise NotImplementedError

    def pieces(self, buffers: Mapping[str, Buffer]) -> Iterator[dict[str, Any]]:
        """Yield buffers of one size in flat pieces that NumPy's functions take and change in place."""
        raise NotImplementedError

    def settle_pages(self, buffers: Iterable[Buffer]) -> None:
        """Take all the memory that a run's moves come to take from these buffers."""

    def held(self) -> Held:
        """Return the memory held now."""
        raise NotImplementedError

    def limits(self, now: Held) -> list[Limit]:
        """Return what may be held."""
        raise NotImplementedError

    def news(self) -> str | None:
        """Return a sentence that came up since it was last asked; None where there is none."""
        return None

    def wait(self) -> None:
        """Wait until all that was asked for is done."""

    def out_of_memory(self, error: Exception) -> bool:
        """Return whether an error says that memory was refused."""
        return isinstance(error, MemoryError) or "alloc" in str(error)  # onnxruntime's words

    def give_back(self) -> None:
        """Return freed memory to the system."""
