"""The trainable tensors of a run: the buffers that sessions read, and the spaces that move them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import LORA
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.manifest import Branch, Manifest, Parameter
from zoedge.methods import Dense, LowRank, Method, Move, Point, Update
from zoedge.methods.support import Projection
from zoedge.tensor_file import map_some, read_entries, view

from ..device import Buffer, Device
from ..noise.reference import Float32
from . import (
    ActivationBranch,
    Arrays,
    InPlace,
    LowRankBranch,
    LowRankInPlace,
    OutOfPlace,
    ProjectedInPlace,
    ProjectedOutOfPlace,
    Site,
    Space,
    carry_out,
)
from .changes import Change
from .support import Moved, Parts, Support, narrows

Exported = Callable[[str], Float32]  # a trainable tensor's name -> its exported values

OUT_OF_PLACE_LIMIT = 1 << 22  # elements: up to 16 MiB of masters, sets are rebuilt exactly; above, in place
_SETTLE_AFTER = 128  # visits a replay may leave unsettled: bounds the queues


def load_buffers(bundle: Bundle, device: Device) -> dict[str, Buffer]:
    """Return one float32 buffer per trainable tensor, made of a copy-on-write view of the bundle's files."""
    names = {p.name for p in bundle.manifest.trainable}
    files = {p.file for p in bundle.manifest.trainable}
    maps = {file: map_some(bundle.path(file), names) for file in files}
    buffers: dict[str, Buffer] = {}
    for parameter in bundle.manifest.trainable:
        array = maps[parameter.file][parameter.name]
        if array.dtype != np.float32:
            raise InputError(
                f"{parameter.name} is {parameter.dtype} and only float32 tensors can be trained: export it frozen"
            )
        buffers[parameter.name] = device.own(array)
    return buffers


def map_exported(bundle: Bundle) -> Exported:
    """Return what maps a trainable tensor's exported values, read-only: pages of the file, not of the process."""
    files = {p.name: p.file for p in bundle.manifest.trainable}

    def exported(name: str) -> Float32:
        path = bundle.path(files[name])
        array = view(np.memmap(path, dtype=np.uint8, mode="r"), read_entries(path)[name])
        return cast("Float32", array)

    return exported


class Parameters:
    """Everything a run may change.

    Args:
        manifest: the bundle's; its trainable rows are moved, except those in ``fixed``.
        buffers: name -> float32 buffer, shared with the engine, changed in place.
        seed: the run's noise seed.
        method: what moves them.
        placement: "in-place" or "out-of-place" for full-shape directions.
        device: where the buffers are.
        lora_space: "factors" (A and B) or "activations" (a small matrix between principal directions).
        fixed: names that directions leave alone (a head that is solved instead).
        exported: returns a tensor's exported values, for methods that go back to them; None where the buffers have
            them and a copy may be taken.
    """

    def __init__(
        self,
        manifest: Manifest,
        buffers: Mapping[str, Buffer],
        *,
        seed: int,
        method: Method,
        placement: str,
        device: Device,
        lora_space: str = "factors",
        fixed: Collection[str] = (),
        exported: Exported | None = None,
    ) -> None:
        self.buffers = buffers
        self.device = device
        self._unsettled = 0
        self.fixed = tuple(p.name for p in manifest.trainable if p.name in fixed)
        moved = [p for p in manifest.trainable if p.name not in fixed]
        if not moved:
            raise InputError(
                "nothing is left to tune: the bundle has no trainable tensor besides its head; export with --train lora"
            )
        builder = _Builder(buffers, seed, method, placement, lora_space, device, exported)
        self._named = builder.build(moved, manifest.branches)
        self.spaces = tuple(self._named.values())
        singly = {name for name, space in self._named.items() if space.singly}
        projected = {name for name, space in self._named.items() if space.projects}
        self._support = Support(
            method.support, Moved(tuple(self._named), singly, self._theta, projected), seed
        )
        if self._support.masks and (method.rule.arrays or singly != self._named.keys()):
            raise ValueError(
                "single elements can be left out only of tensors that move alone, without arrays beside"
            )
        self._parts: tuple[int, Parts] | None = None  # of the step that was asked for last
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
        for name, part in self._moving(step).items():
            self._named[name].visit(step, _times(point, part.reach), part)
        self._unsettled += 1
        if self._unsettled > _SETTLE_AFTER:
            self.settle()

    def apply(self, step: int, update: Update) -> None:
        """Let theta be shrink * theta + sum(scale * z_k(step))."""
        parts = self._moving(step).items()
        changes: list[Change] = []
        for name, part in parts:
            own = update if part.stride == 1.0 else update._replace(moves=_times(update.moves, part.stride))
            own = own if part.stride else Update()
            changes += self._named[name].apply(step, own, part)
        carry_out(self.device, changes)

    def told(self, step: int, g: Sequence[float]) -> None:
        """Take in the directional derivatives of a step that was applied, where what moves depends on them."""
        self._support.told(step, g)

    def settle(self) -> None:
        """Bring the buffers up to date."""
        carry_out(self.device, (change for space in self.spaces for change in space.settle()))
        for space in self.spaces:
            space.settled()
        self._unsettled = 0

    def assign(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Give fixed tensors new values, in their shape or flat."""
        for name, value in values.items():
            self.device.write(self.buffers[name], value)

    def values(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return buffers' present values, to be read before anything moves."""
        exact = {name: value for space in self.spaces for name, value in space.values().items()}
        return {
            n: exact[n] if n in exact else self.device.host(self.buffers[n]).astype(np.float32, copy=False)
            for n in names
        }

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
        state: dict[str, NDArray[np.generic]] = {
            name: self.device.host(self.buffers[name]) for name in self.fixed
        }
        for space in self.spaces:
            state |= space.state()
        return state | self._support.state()

    def load(self, state: Arrays) -> None:
        """Continue from a ``state``."""
        for name in self.fixed:
            self.device.write(self.buffers[name], state[name])
        for space in self.spaces:
            space.load(state)
        self._support.load(state)
        self._parts = None

    def _theta(self, name: str) -> Float32:
        return self._named[name].theta()

    def _moving(self, step: int) -> Parts:
        """Return what a step moves; the rest stays at theta, where the step before left it."""
        if self._parts is None or self._parts[0] != step:
            if self._support.reads_theta:
                self.settle()
            self._parts = step, self._support.at(step, self._theta)
        return self._parts[1]


def _times(moves: Point, factor: float) -> Point:
    return moves if factor == 1.0 else tuple(Move(probe, factor * scale) for probe, scale in moves)


SPACES: dict[tuple[str, str], type[Space]] = {  # by the kind of direction, and where it acts
    (Dense.kind, "in-place"): InPlace,
    (Dense.kind, "out-of-place"): OutOfPlace,
    (LowRank.kind, "in-place"): LowRankInPlace,
    (LowRank.kind, "out-of-place"): LowRankInPlace,
}
PROJECTED: dict[tuple[str, str], type[Space]] = {
    (Dense.kind, "in-place"): ProjectedInPlace,
    (Dense.kind, "out-of-place"): ProjectedOutOfPlace,
}
# by the kind of adapter and of direction, and what moves in a branch
BRANCH_SPACES: dict[tuple[str, str, str], type[Space]] = {
    (LORA, Dense.kind, "activations"): ActivationBranch,
    (LORA, LowRank.kind, "factors"): LowRankBranch,
}  # others move their factors as any tensors are moved


_Maker = Callable[[Sequence[Site]], Space]  # what a class of spaces is, as it is made


class _Builder:
    """Chooses the space of each tensor; those that move alike share one, where no step narrows what moves."""

    def __init__(
        self,
        buffers: Mapping[str, Buffer],
        seed: int,
        method: Method,
        placement: str,
        lora_space: str,
        device: Device,
        exported: Exported | None,
    ) -> None:
        self._buffers, self._seed, self._method, self._exported = buffers, seed, method, exported
        self._projection = next((s for s in method.support if isinstance(s, Projection)), None)
        self._placement, self._lora_space, self._device = placement, lora_space, device
        self._together = not narrows(method.support)

    def build(self, moved: list[Parameter], branches: tuple[Branch, ...]) -> dict[str, Space]:
        """Return each space by its parameter, or its branch's matrix, or its last tensor where that moves, too.

        A space of several goes by the first of them.
        """
        names = {p.name for p in moved}
        alike: dict[tuple[type[Space], bool, str], list[Site]] = {}
        for branch in branches:
            made = BRANCH_SPACES.get((branch.kind, self._method.directions.kind, self._lora_space))
            factors = tuple(branch.tensors.values())
            if made is not None and names.issuperset(factors):
                name = factors[-1] if branch.weight in names else branch.weight
                self._add(alike, made, self._site(name, factors, branch))
                names -= set(factors)
        for parameter in moved:
            if parameter.name in names:
                # a vector has no rank
                kind = self._method.directions.kind if len(parameter.shape) >= 2 else Dense.kind
                site = self._site(parameter.name, (parameter.name,), decays=parameter.decay)
                if (projection := self._projects(parameter)) is not None:
                    made, site = PROJECTED[kind, self._placement], replace(site, projection=projection)
                    self._add(alike, made, site)
                else:
                    self._add(alike, SPACES[kind, self._placement], site)
        return {sites[0].name: cast("_Maker", made)(sites) for (made, *_), sites in alike.items()}

    def _projects(self, parameter: Parameter) -> Projection | None:
        """Return the projection that takes a parameter; None where none does."""
        matrix = len(parameter.shape) >= 2 and parameter.group != "head"
        projection = self._projection
        return projection if projection and matrix and projection.takes(parameter.name) else None

    def _add(
        self, alike: dict[tuple[type[Space], bool, str], list[Site]], made: type[Space], site: Site
    ) -> None:
        """Put a site where those are that share its space."""
        one = "" if self._together and made.several else site.name
        alike.setdefault((made, site.decays, one), []).append(site)

    def _site(
        self, name: str, buffers: Sequence[str], branch: Branch | None = None, *, decays: bool = True
    ) -> Site:
        return Site(
            name=name,
            buffers=tuple(self._buffers[buffer] for buffer in buffers),
            branch=branch,
            decays=decays,
            seed=self._seed,
            directions=self._method.directions,
            arrays=self._method.rule.arrays,
            device=self._device,
            exported=None if self._exported is None else partial(self._exported, name),
        )


def placement_for(manifest: Manifest, fixed: Collection[str] = ()) -> str:
    """Return where full-shape directions act: small sets out of place, large ones in place."""
    elements = sum(int(np.prod(p.shape)) for p in manifest.trainable if p.name not in fixed)
    return "out-of-place" if elements <= OUT_OF_PLACE_LIMIT else "in-place"
