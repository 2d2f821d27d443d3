"""How tensors take part in a step, and what takes some of them out or gives them scales of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..noise.reference import Float32, Sample

Theta = Callable[[str], Float32]  # a moved tensor's name -> its values before the step


class Part(NamedTuple):
    """How a tensor, or a few that move together, takes part in a step.

    Attributes:
        sample: which stretches move; None for all.
        mask: which elements move, as ``Addition.mask``; None for all.
        window: the step at which the present low-rank subspace began.
        projection: the step at which the present projection began; None at usual steps.
        reach, stride: what the moves of points and of updates are multiplied with; with a stride of 0 the tensor is
            only looked at.
    """

    sample: Sample | None = None
    window: int = 0
    mask: NDArray[np.uint8] | None = None
    projection: int | None = None
    reach: float = 1.0
    stride: float = 1.0


def _no_theta(name: str) -> Float32:
    raise ValueError(f"the values of {name} are not at hand")


Parts = Mapping[str, Part]  # what moves at a step; what isn't in it stays


class Moved(NamedTuple):
    """What a run moves.

    Attributes:
        names: of all of it.
        singly: of that whose elements move each for themselves.
        theta: their values as exported; only while a narrowing is made.
        projected: names of that which is projected.
    """

    names: Sequence[str]
    singly: Collection[str]
    theta: Theta = _no_theta
    projected: Collection[str] = ()


class Narrowing(Protocol):
    """Takes tensors or elements out of a step; made of its declaration, what is moved, and the run's seed.

    Attributes:
        reads_theta: whether ``narrow`` looks at the parameters.
        masks: whether it leaves out single elements.
    """

    reads_theta: bool
    masks: bool

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return what is left of a step's parts."""


class Remembering:
    """A narrowing that goes by the directional derivatives of earlier steps."""

    def told(self, step: int, g: Sequence[float]) -> None:
        """Take in a step's directional derivatives; not called where it was skipped."""
        raise NotImplementedError

    def state(self) -> Mapping[str, NDArray[np.float64]]:
        """Return what is kept of those, for ``load``."""
        raise NotImplementedError

    def load(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Continue from a ``state``."""
        raise NotImplementedError


def layer_of(name: str) -> str | None:
    """Return a parameter's layer: its name up to the first number; None where there is no number.

    >>> layer_of("model.decoder.layers.3.fc1.weight")
    'model.decoder.layers.3'
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else None
