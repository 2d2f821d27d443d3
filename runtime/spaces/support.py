"""Which tensors and elements a step moves, and in which window: decided once a step, by one object.

A method declares what narrows its steps (``zoedge.methods.support``); each declaration has a narrowing here. All are
pure functions of seed, step and, where they say so, the parameters as they are before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from zoedge.errors import InputError
from zoedge.methods import support as declared

from ..noise.permutation import permutation
from ..noise.reference import PURPOSE_SAMPLE, Float32, Sample, Stream, tensor_id

Theta = Callable[[str], Float32]  # a moved tensor's name -> its values before the step


class Part(NamedTuple):
    """How a tensor, or a few that move together, takes part in a step.

    Attributes:
        sample: which stretches move; None for all.
        window: the step at which the present low-rank subspace began.
    """

    sample: Sample | None = None
    window: int = 0


Parts = Mapping[str, Part]  # what moves at a step; what isn't in it stays


class Moved(NamedTuple):
    """Names of what a run moves: all, and those whose elements move each for themselves."""

    names: Sequence[str]
    singly: Collection[str]


class Narrowing(Protocol):
    """Takes tensors or elements out of a step; made of its declaration, what is moved, and the run's seed.

    Attributes:
        reads_theta: whether ``narrow`` looks at the parameters.
    """

    reads_theta: bool

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return what is left of a step's parts."""


class LayersNarrowing:
    """A share of the layers, drawn anew for each step (LeZO, arXiv 2410.09823).

    Parameters outside any layer move at every step; at least one layer moves.

    Raises:
        InputError: no parameter belongs to a layer.
    """

    reads_theta = False

    def __init__(self, declaration: declared.Layers, moved: Moved, seed: int) -> None:
        self._layer = {name: layer_of(name) for name in moved.names}
        self._layers = sorted({layer for layer in self._layer.values() if layer is not None})
        if not self._layers:
            raise InputError(
                f"--active-layers {declaration.share:g} needs parameters of numbered layers, and none is tuned: "
                "leave it out"
            )
        self._count = max(1, round(declaration.share * len(self._layers)))
        self._seed = seed

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts of the step's layers."""
        order = permutation(self._seed, "zoedge.layers", step, len(self._layers))
        active = {None, *(self._layers[i] for i in order[: self._count])}
        return {name: part for name, part in parts.items() if self._layer[name] in active}


class StretchesNarrowing:
    """A share of each tensor's elements, in stretches, the same for all directions of a step."""

    reads_theta = False

    def __init__(self, declaration: declared.Stretches, moved: Moved, seed: int) -> None:
        self._tensors = {name: tensor_id(name) for name in moved.singly}
        self._share, self._seed = declaration.share, seed

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts, those of single tensors with the step's sample."""
        return {
            name: part._replace(sample=self._sample(step, name)) if name in self._tensors else part
            for name, part in parts.items()
        }

    def _sample(self, step: int, name: str) -> Sample:
        return Sample(Stream(self._seed, self._tensors[name], step, 0, PURPOSE_SAMPLE), self._share)


class WindowsNarrowing:
    """Low-rank subspaces stay for a number of steps."""

    reads_theta = False

    def __init__(self, declaration: declared.Windows, moved: Moved, seed: int) -> None:
        self._refresh = declaration.refresh

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts with the window's first step."""
        window = step - step % self._refresh
        return {name: part._replace(window=window) for name, part in parts.items()}


NARROWINGS: dict[type, Callable[[Any, Moved, int], Narrowing]] = {
    declared.Layers: LayersNarrowing,
    declared.Stretches: StretchesNarrowing,
    declared.Windows: WindowsNarrowing,
}


class Support:
    """What moves at a step, of everything that a run moves.

    Args:
        declarations: the method's.
        moved: what is moved at all.
        seed: the run's.

    Attributes:
        reads_theta: whether a step's choice depends on the parameters before it.
    """

    def __init__(self, declarations: Sequence[declared.Support], moved: Moved, seed: int) -> None:
        self._narrowings = [NARROWINGS[type(d)](d, moved, seed) for d in declarations]
        self._all: Parts = dict.fromkeys(moved.names, Part())
        self.reads_theta = any(n.reads_theta for n in self._narrowings)

    def at(self, step: int, theta: Theta) -> Parts:
        """Return how each tensor takes part in a step."""
        parts = self._all
        for narrowing in self._narrowings:
            parts = narrowing.narrow(step, parts, theta)
        return parts


def layer_of(name: str) -> str | None:
    """Return a parameter's layer: its name up to the first number; None where there is no number.

    >>> layer_of("model.decoder.layers.3.fc1.weight")
    'model.decoder.layers.3'
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else None
