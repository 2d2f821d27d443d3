"""What every measured program has: it is built once, and then its parts are done again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpu.clock import Clock, CudaClock, HostClock


@dataclass(frozen=True)
class Place:
    """Where a program runs and what it is given.

    Attributes:
        provider: "cuda" or "cpu".
        bundles, data: folders.
        family: the models' names begin with it.
    """

    provider: str
    bundles: Path
    data: Path
    family: str

    @cached_property
    def stream(self) -> Any:
        """The CuPy stream that zoedge gives its work to."""
        from zoedge.runtime.device.cuda_buffer import stream

        return stream()


class Variant:
    """One program.

    Attributes:
        passes: of a step, in words.
        parts: name -> what is timed; "step" is the whole.
        notes: what a reader of its figures should know.
    """

    passes = ""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.parts: dict[str, Callable[[], object]] = {}
        self.notes: list[str] = []

    @cached_property
    def clock(self) -> Clock:
        """What tells its time and memory."""
        return CudaClock(self.place.stream) if self.place.provider == "cuda" else HostClock()

    def build(self) -> None:
        """Take memory and make ``parts``; what is imported or read is there before."""
        raise NotImplementedError

    def loss(self) -> float:
        """Return the mean loss of the first batch at the present weights."""
        raise NotImplementedError
