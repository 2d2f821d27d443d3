"""Which tensors and elements a step moves, and in which window: decided once a step, by one object.

A method declares what narrows its steps (``zoedge.methods.support``); each declaration has a narrowing, here or in a
file of its own. All are pure functions of seed, step and, where they say so, the parameters before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError
from zoedge.methods import support as declared

from ..noise.permutation import permutation
from ..noise.reference import PURPOSE_SAMPLE, Float32, Sample, Stream, tensor_id
from .layer_scales import layer_scales
from .parts import Moved, Narrowing, Part, Parts, Remembering, Theta, layer_of
from .projection_narrowing import ProjectionNarrowing

__all__ = ["NARROWINGS", "Moved", "Narrowing", "Part", "Parts", "Support", "layer_of"]


class LayersNarrowing:
    """A share of the layers, drawn anew for each step (LeZO, arXiv 2410.09823).

    Parameters outside any layer move at every step; at least one layer moves.

    Raises:
        InputError: no parameter belongs to a layer.
    """

    reads_theta = masks = False

    def __init__(self, declaration: declared.Layers, moved: Moved, seed: int) -> None:
        self._layer = {name: layer_of(name) for name in moved.names}
        self._layers = sorted({layer for layer in self._layer.values() if layer is not None})
        if not self._layers:
            raise InputError(
                f"--active-layers {declaration.share:g} needs parameters of numbered layers, and none is tuned: "
                f"{declaration.remedy}"
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

    reads_theta = masks = False

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

    reads_theta = masks = False

    def __init__(self, declaration: declared.Windows, moved: Moved, seed: int) -> None:
        self._refresh = declaration.refresh

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts with the window's first step."""
        window = step - step % self._refresh
        return {name: part._replace(window=window) for name, part in parts.items()}


class SmallMagnitudesNarrowing:
    """The elements whose magnitude is at most the tensor's threshold, by the parameters before the step.

    A tensor whose threshold is 0 (a fresh bias) moves as a whole.

    Raises:
        InputError: every tensor's is.
    """

    reads_theta = masks = True

    def __init__(self, declaration: declared.SmallMagnitudes, moved: Moved, seed: int) -> None:
        found = {name: _threshold(moved.theta(name), declaration.sparsity) for name in sorted(moved.singly)}
        self._thresholds = {name: threshold for name, threshold in found.items() if threshold > 0.0}
        if not self._thresholds:
            raise InputError(
                "sparse-mezo moves small weights, and all that is tuned begins as zeros: export with --train full"
            )
        small = {n: _small(moved.theta(n), h) for n, h in self._thresholds.items() if declaration.constant}
        self._constant = small if declaration.constant else None

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts with the step's masks."""
        return {
            name: part._replace(mask=self._mask(name, theta)) if name in self._thresholds else part
            for name, part in parts.items()
        }

    def _mask(self, name: str, theta: Theta) -> NDArray[np.uint8]:
        return _small(theta(name), self._thresholds[name]) if self._constant is None else self._constant[name]


def _threshold(theta: Float32, sparsity: float) -> float:
    """Return the largest magnitude of the share that moves, of one element at least."""
    sizes = np.abs(theta).ravel()
    count = max(1, round((1.0 - sparsity) * sizes.size))
    return float(np.partition(sizes, count - 1)[count - 1])


def _small(theta: Float32, threshold: float) -> NDArray[np.uint8]:
    return np.packbits(np.abs(theta).ravel() <= np.float32(threshold), bitorder="little")


NARROWINGS: dict[type, Callable[[Any, Moved, int], Narrowing]] = {
    declared.Layers: LayersNarrowing,
    declared.LayerScales: layer_scales,
    declared.Projection: ProjectionNarrowing,
    declared.SmallMagnitudes: SmallMagnitudesNarrowing,
    declared.Stretches: StretchesNarrowing,
    declared.Windows: WindowsNarrowing,
}


def narrows(declarations: Sequence[declared.Support]) -> bool:
    """Return whether some tensors or elements stay at some steps: else all that move alike can move as one."""
    return not all(isinstance(declaration, declared.Windows) for declaration in declarations)


class Support:
    """What moves at a step, of everything that a run moves.

    Args:
        declarations: the method's.
        moved: what is moved at all.
        seed: the run's.

    Attributes:
        reads_theta: whether a step's choice depends on the parameters before it.
        masks: whether it leaves out single elements.
    """

    def __init__(self, declarations: Sequence[declared.Support], moved: Moved, seed: int) -> None:
        self._narrowings = [NARROWINGS[type(d)](d, moved, seed) for d in declarations]
        self._remembering = [n for n in self._narrowings if isinstance(n, Remembering)]
        self._all: Parts = dict.fromkeys(moved.names, Part())
        self.reads_theta = any(n.reads_theta for n in self._narrowings)
        self.masks = any(n.masks for n in self._narrowings)

    def told(self, step: int, g: Sequence[float]) -> None:
        """Take in a step's directional derivatives."""
        for narrowing in self._remembering:
            narrowing.told(step, g)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what is kept of those."""
        return {name: value for narrowing in self._remembering for name, value in narrowing.state().items()}

    def load(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Continue from a ``state``."""
        for narrowing in self._remembering:
            narrowing.load(state)

    def at(self, step: int, theta: Theta) -> Parts:
        """Return how each tensor takes part in a step."""
        parts = self._all
        for narrowing in self._narrowings:
            parts = narrowing.narrow(step, parts, theta)
        return parts
