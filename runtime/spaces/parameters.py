"""The trainable tensors of a run: the buffers that sessions read, and the spaces that move them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.manifest import LoraBranch, Manifest, Parameter
from zoedge.methods import Directions, Point, Update
from zoedge.tensor_file import map_some

from ..noise.kernels import AddTerms
from ..noise.reference import Addition, Float32
from . import ActivationBranch, Arrays, InPlace, LowRankBranch, LowRankInPlace, Noise, OutOfPlace, Space
from .layers import ActiveLayers, layer_of

OUT_OF_PLACE_LIMIT = 1 << 22  # elements: up to 16 MiB of masters, sets are rebuilt exactly; above, in place
_SETTLE_AFTER = 128  # visits a replay may leave unsettled: bounds the queues


def load_buffers(bundle: Bundle) -> dict[str, Float32]:
    """Return one float32 buffer per trainable tensor: copy-on-write views of the bundle's files."""
    names = {p.name for p in bundle.manifest.trainable}
    files = {p.file for p in bundle.manifest.trainable}
    maps = {file: map_some(bundle.path(file), names) for file in files}
    buffers: dict[str, Float32] = {}
    for parameter in bundle.manifest.trainable:
        array = maps[parameter.file][parameter.name]
        if array.dtype != np.float32:
            raise InputError(
                f"{parameter.name} is {parameter.dtype} and only float32 tensors can be trained: export it frozen"
            )
        buffers[parameter.name] = np.require(array, np.float32, ["C", "A", "W"])
    return buffers


class Parameters:
    """Everything a run may change.

    Args:
        manifest: the bundle's; its trainable rows are moved, except those in ``fixed``.
        buffers: name -> float32 array, shared with the engine, changed in place.
        seed: the run's noise seed.
        directions: the method's.
        placement: "in-place" or "out-of-place" for full-shape directions.
        add_terms: the kernel of the noise specification.
        lora_space: "factors" (A and B) or "activations" (a small matrix between principal directions).
        fixed: names that directions leave alone (a head that is solved instead).
    """

    def __init__(
        self,
        manifest: Manifest,
        buffers: Mapping[str, Float32],
        *,
        seed: int,
        directions: Directions,
        placement: str,
        add_terms: AddTerms,
        lora_space: str = "factors",
        fixed: Collection[str] = (),
    ) -> None:
        self.buffers = buffers
        self._add_terms = add_terms
        self._unsettled = 0
        self.fixed = tuple(p.name for p in manifest.trainable if p.name in fixed)
        moved = [p for p in manifest.trainable if p.name not in fixed]
        if not moved:
            raise InputError(
                "nothing is left to tune: the bundle has no trainable tensor besides its head; export with --train lora"
            )
        builder = _Builder(buffers, seed, directions, placement, lora_space, add_terms)
        named = builder.build(moved, manifest.lora)
        self.spaces = tuple(named.values())
        self._layers = ActiveLayers(named, directions.layers, seed) if directions.layers is not None else None
        self._space_layers = [layer_of(name) for name in named]
        self._assignable = {name: space for space in self.spaces for name in space.assignable}

    @property
    def varying(self) -> frozenset[str]:
        """Names of the buffers that differ between the points of a step."""
        return frozenset().union(*(space.varying for space in self.spaces))

    @property
    def exact(self) -> bool:
        """Whether leaving a point restores the very bits of all tensors, and not only up to float32 rounding."""
        return all(space.exact for space in self.spaces)

    def visit(self, step: int, point: Point) -> None:
        """Let the buffers be theta + sum(scale * z_k(step)) when next settled."""
        for space in self._active(step):
            space.visit(step, point)
        self._unsettled += 1
        if self._unsettled > _SETTLE_AFTER:
            self.settle()

    def apply(self, step: int, update: Update) -> None:
        """Let theta be shrink * theta + sum(scale * z_k(step))."""
        self._add(addition for space in self._active(step) for addition in space.apply(step, update))

    def settle(self) -> None:
        """Bring the buffers up to date."""
        self._add(addition for space in self.spaces for addition in space.settle())
        for space in self.spaces:
            space.settled()
        self._unsettled = 0

    def assign(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Give fixed tensors new values, in their shape or flat."""
        for name, value in values.items():
            self.buffers[name][...] = value.reshape(self.buffers[name].shape)

    def restart(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Let what directions move, or move along, go on from new values; only between steps.

        Raises:
            ValueError: a name that no space takes.
        """
        for name, value in values.items():
            if name not in self._assignable:
                raise ValueError(f"{name} can't be given a value: no space takes it")
            space = self._assignable[name]
            space.assign({name: value.reshape(space.assignable[name])})

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what ``load`` needs to continue from here; only between steps."""
        state: dict[str, NDArray[np.generic]] = {name: self.buffers[name] for name in self.fixed}
        for space in self.spaces:
            state |= space.state()
        return state

    def load(self, state: Arrays) -> None:
        """Continue from a ``state``."""
        for name in self.fixed:
            self.buffers[name][...] = state[name]
        for space in self.spaces:
            space.load(state)

    def _add(self, additions: Iterable[Addition]) -> None:
        """Make the additions of all spaces in one call."""
        made = list(additions)
        if made:
            self._add_terms(made)

    def _active(self, step: int) -> Sequence[Space]:
        """Return the spaces that a step moves; the others stay at theta, where the step before left them."""
        if self._layers is None:
            return self.spaces
        layers = self._layers.at(step)
        return [
            space for space, layer in zip(self.spaces, self._space_layers, strict=True) if layer in layers
        ]


class _Builder:
    """Chooses the space of each tensor."""

    def __init__(
        self,
        buffers: Mapping[str, Float32],
        seed: int,
        directions: Directions,
        placement: str,
        lora_space: str,
        add_terms: AddTerms,
    ) -> None:
        self._buffers, self._seed, self._directions = buffers, seed, directions
        self._placement, self._lora_space, self._add_terms = placement, lora_space, add_terms

    def build(self, moved: list[Parameter], lora: tuple[LoraBranch, ...]) -> dict[str, Space]:
        """Return each space under the name of its parameter, or of its branch's frozen matrix."""
        names = {p.name for p in moved}
        spaces: dict[str, Space] = {}
        for branch in lora:
            if {branch.a, branch.b} <= names and (space := self._branch(branch)) is not None:
                spaces[branch.weight] = space
                names -= {branch.a, branch.b}
        return spaces | {p.name: self._single(p) for p in moved if p.name in names}

    def _branch(self, branch: LoraBranch) -> Space | None:
        """Return the space of a branch; None when its factors are moved as any tensors are."""
        a, b = self._buffers[branch.a], self._buffers[branch.b]
        if self._directions.rank is not None:
            return LowRankBranch(branch, a, b, self._seed, self._directions)
        if self._lora_space == "activations":
            noise = Noise(branch.b, self._seed, replace(self._directions, elements=1.0), self._add_terms)
            return ActivationBranch(branch, a, b, noise)
        return None

    def _single(self, parameter: Parameter) -> Space:
        name, buffer = parameter.name, self._buffers[parameter.name]
        if self._directions.rank is not None and buffer.ndim >= 2:
            return LowRankInPlace(name, buffer, self._seed, self._directions, decays=parameter.decay)
        noise = Noise(name, self._seed, self._directions, self._add_terms)
        space = InPlace if self._placement == "in-place" else OutOfPlace
        return space(name, buffer, noise, decays=parameter.decay)


def placement_for(manifest: Manifest, fixed: Collection[str] = ()) -> str:
    """Return where full-shape directions act: small sets out of place, large ones in place."""
    elements = sum(int(np.prod(p.shape)) for p in manifest.trainable if p.name not in fixed)
    return "out-of-place" if elements <= OUT_OF_PLACE_LIMIT else "in-place"
