"""Which tensors and elements a step moves, and in which window: decided once a step, by one object.

A method declares what narrows its steps (``zoedge.methods.support``); each declaration has a narrowing here. All are
pure functions of seed, step and, where they say so, the parameters as they are before the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError
from zoedge.methods import support as declared

from ..noise.permutation import permutation
from ..noise.reference import PURPOSE_SAMPLE, Float32, Sample, Stream, tensor_id

_PIECE = 1 << 16  # elements that are squared at a time

Theta = Callable[[str], Float32]  # a moved tensor's name -> its values before the step


class Part(NamedTuple):
    """How a tensor, or a few that move together, takes part in a step.

    Attributes:
        sample: which stretches move; None for all.
        mask: which elements move, as ``Addition.mask``; None for all.
        window: the step at which the present low-rank subspace began.
        projection: the step at which the present projection began; None at usual steps.
        reach, stride: what the moves of points and of updates are multiplied with.
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


class ProjectionNarrowing:
    """At some steps nothing moves but the scalars of the matrices that are projected.

    Raises:
        InputError: none of them is tuned.
    """

    reads_theta = masks = False

    def __init__(self, declaration: declared.Projection, moved: Moved, seed: int) -> None:
        self._projection, self._projected = declaration, frozenset(moved.projected)
        if not self._projected:
            what = (
                "matrices"
                if declaration.which == "all"
                else f"{' and '.join(declaration.which.split('-'))} matrices"
            )
            remedy = "use --method mezo" if declaration.which == "all" else "give --project all"
            raise InputError(f"dizo projects {what}, and none is tuned by such a name: {remedy}")

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return all of a usual step's parts, or the projected ones."""
        turn = step % self._projection.cycle
        if turn < self._projection.every:
            return parts
        first = step - turn + self._projection.every
        return {n: p._replace(projection=first) for n, p in parts.items() if n in self._projected}


class LayerScalesNarrowing:
    """Each layer has scales of its own, and so has each tensor outside any.

    Layers of zeros alone have those of no scaling.

    Raises:
        InputError: all of it is zeros.
    """

    reads_theta = masks = False

    def __init__(self, declaration: declared.LayerScales, moved: Moved, seed: int) -> None:
        layers = {name: layer_of(name) or name for name in sorted(moved.names)}
        squares: dict[str, list[float]] = {layer: [0.0, 0.0] for layer in layers.values()}
        for name, layer in layers.items():
            theta = moved.theta(name)
            squares[layer][0] += sum_of_squares(theta)
            squares[layer][1] += theta.size
        total, count = (sum(s[i] for s in squares.values()) for i in (0, 1))
        if total == 0.0:
            raise InputError(
                "--layer-scaling goes by the size of weights, and all that moves begins as zeros: "
                "use --lora-space factors, or leave it out"
            )
        sizes = {layer: math.sqrt(s / n * count / total) for layer, (s, n) in squares.items()}
        self._scales = {
            name: (1.0 / d, d if declaration.unbiased else 1.0)
            for name, layer in layers.items()
            if (d := sizes[layer]) > 0.0
        }

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts with their scales."""
        return {
            name: part._replace(reach=self._scales[name][0], stride=self._scales[name][1])
            if name in self._scales
            else part
            for name, part in parts.items()
        }


def sum_of_squares(values: Float32) -> float:
    """Return the sum in float64, one after the other: the same bits on every processor."""
    flat, total = values.reshape(-1), 0.0
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64)
        total += float(np.cumsum(piece * piece)[-1])
    return total


def _threshold(theta: Float32, sparsity: float) -> float:
    """Return the largest magnitude of the share that moves, of one element at least."""
    sizes = np.abs(theta).ravel()
    count = max(1, round((1.0 - sparsity) * sizes.size))
    return float(np.partition(sizes, count - 1)[count - 1])


def _small(theta: Float32, threshold: float) -> NDArray[np.uint8]:
    return np.packbits(np.abs(theta).ravel() <= np.float32(threshold), bitorder="little")


NARROWINGS: dict[type, Callable[[Any, Moved, int], Narrowing]] = {
    declared.Layers: LayersNarrowing,
    declared.LayerScales: LayerScalesNarrowing,
    declared.Projection: ProjectionNarrowing,
    declared.SmallMagnitudes: SmallMagnitudesNarrowing,
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
        masks: whether it leaves out single elements.
    """

    def __init__(self, declarations: Sequence[declared.Support], moved: Moved, seed: int) -> None:
        self._narrowings = [NARROWINGS[type(d)](d, moved, seed) for d in declarations]
        self._all: Parts = dict.fromkeys(moved.names, Part())
        self.reads_theta = any(n.reads_theta for n in self._narrowings)
        self.masks = any(n.masks for n in self._narrowings)

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
