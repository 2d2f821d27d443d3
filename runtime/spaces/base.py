"""What a trainable space is: it keeps some buffers at theta plus whatever point is being measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import LoraBranch
from zoedge.manifest import Branch
from zoedge.methods import DenseStep, Directions, Point, Update
from zoedge.methods.support import Projection

from ..device import Buffer, Device
from ..noise.reference import Float32
from ..noise.sweep import Family
from .changes import Change, Noise, carry_out
from .support import Part

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Site:
    """What a space is made of.

    Attributes:
        name: the parameter's, or that of a branch's frozen matrix.
        buffers: what the session reads: the parameter's array, or a branch's A and B.
        branch: the branch beside a frozen matrix; None for a tensor by itself.
        decays: whether weight decay shrinks it.
        seed: the run's.
        directions: the method's.
        arrays: names of what the method's rule keeps beside each tensor.
        device: where the buffers are.
        projection: what projects the tensor; None where nothing does.
        exported: returns the tensor's exported values, read-only; None where its buffer has them.
    """

    name: str
    buffers: tuple[Buffer, ...]
    branch: Branch | None
    decays: bool
    seed: int
    directions: Directions
    arrays: tuple[str, ...]
    device: Device
    projection: Projection | None = None
    exported: Callable[[], Float32] | None = None


class Space:
    """Tensors that move together, and how directions act on them; made of ``Site``s that differ in tensors alone.

    ``visit`` and ``apply`` may be lazy: nothing is written before ``settle``, so that what one step ends
    with and the next begins with can be one pass over memory. The arithmetic per element doesn't depend on
    when ``settle`` is called, which is why a replay (which never settles in between) gives the same bits.

    Attributes:
        exact: whether leaving a point restores the very bits, and not only up to float32 rounding.
        singly: whether each element moves for itself, so that a step may leave some out.
        projects: whether it moves by one scalar at the steps of a projection.
        varying: names of the buffers that differ between the points of a step.
        assignable: name -> shape of what ``assign`` takes.
        several: whether it may be made of several sites; else it is made of one.
    """

    exact: ClassVar[bool] = True
    singly: ClassVar[bool] = False
    several: ClassVar[bool] = False
    projects: ClassVar[bool] = False

    def __init__(self, varying: Sequence[str], assignable: Mapping[str, tuple[int, ...]]) -> None:
        self.varying = frozenset(varying)
        self.assignable = dict(assignable)

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Let the buffers be theta + sum(scale * z_k(step)) when next settled."""
        raise NotImplementedError

    def apply(self, step: int, update: Update, part: Part) -> Sequence[Change]:
        """Let theta be shrink * theta + sum(scale * z_k(step)), and the buffers theta, when next settled.

        The caller makes the changes returned, for all spaces at once, before anything else is asked.
        """
        raise NotImplementedError

    def settle(self) -> Sequence[Change]:
        """Bring the buffers up to date, but for the changes returned, which the caller makes as above."""
        return ()

    def settled(self) -> None:
        """Go on with what depends on those changes, which are made now."""

    def theta(self) -> Float32:
        """Return the only tensor's values in the host's memory, or what they follow from; between steps, settled."""
        raise NotImplementedError

    def values(self) -> dict[str, Float32]:
        """Return the settled values of tensors whose buffers hold them rounded, by their names."""
        return {}

    def assign(self, values: Arrays) -> None:
        """Go on from some values that were computed instead of stepped, in their shapes; only between steps."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what ``load`` needs to continue from here, settled, under names of this space."""
        raise NotImplementedError

    def load(self, state: Arrays) -> None:
        """Continue from a ``state``."""
        raise NotImplementedError


class Beside:
    """The arrays that a rule keeps beside a tensor: zeros at the start, part of the state.

    Args:
        name: the tensor's.
        theta: what holds its values.
        arrays: their names.
        noise: of the tensor.
        device: where they are.
    """

    def __init__(self, name: str, theta: Buffer, arrays: Sequence[str], noise: Noise, device: Device) -> None:
        self._arrays = {array: device.zeros(theta.shape) for array in arrays}
        self._name, self._noise, self._device = name, noise, device
        self._all = {**self._arrays, "theta": theta}
        self._families = {array: noise.family((buffer,)) for array, buffer in self._all.items()}

    def step(self, dense: DenseStep, step: int, moves: Point, part: Part, shrink: float) -> None:
        """Let the rule make its step on a tensor that is at theta."""
        dense(_AtStep(self._all, self._families, self._noise, self._device, step, part), moves, shrink)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays, under names of their own."""
        return {f"{self._name}:{array}": self._device.host(values) for array, values in self._arrays.items()}

    def load(self, state: Arrays) -> None:
        """Continue from a ``state``."""
        for array, values in self._arrays.items():
            self._device.write(values, state[f"{self._name}:{array}"])


def besides(thetas: Mapping[str, Buffer], site: Site, noise: Noise) -> list[Beside]:
    """Return what a rule keeps beside each tensor.

    Args:
        thetas: name -> what holds a tensor's values.
        site: of any of them.
        noise: of all of them.
    """
    pairs = zip(thetas.items(), noise.each(), strict=True)
    return [Beside(name, theta, site.arrays, own, site.device) for (name, theta), own in pairs]


class _AtStep:
    """A ``methods.Tensor``: what a rule sees of a tensor at a step."""

    def __init__(
        self,
        arrays: Mapping[str, Buffer],
        families: Mapping[str, Family[Buffer]],
        noise: Noise,
        device: Device,
        step: int,
        part: Part,
    ) -> None:
        self._arrays, self._families, self._noise, self._device = arrays, families, noise, device
        self._step, self._part = step, part

    @property
    def size(self) -> int:
        """How many elements each array has."""
        return self._arrays["theta"].size

    def add(self, name: str, moves: Point, shrink: float = 1.0) -> None:
        """Let an array be shrink * itself + sum(scale * z_k)."""
        sample = self._part.sample
        queue = self._noise.queued(self._step, moves, sample)
        carry_out(self._device, [self._noise.change(self._families[name], queue, shrink, sample)])

    def parts(self) -> Iterator[dict[str, Any]]:
        """Yield the arrays in flat pieces."""
        return self._device.pieces(self._arrays)


def lora_of(site: Site) -> LoraBranch:
    """Return the branch of a site that must be one of LoRA.

    Raises:
        ValueError: it is a tensor by itself.
    """
    if site.branch is None:
        raise ValueError(f"{site.name} is no LoRA branch")
    return LoraBranch.of(site.branch)
