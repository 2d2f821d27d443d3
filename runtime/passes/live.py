"""Do changes of the trainable tensors reach the loss on a device? One that holds a copy would tune nothing, silently.

Export shows it for the processor. Elsewhere each tensor is changed, which the loss must follow, and put back, after
which the loss must have its very bits again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.manifest import LOSS_FILE, Manifest

from ..data.batches import MicroBatch
from ..device import Buffer, Cpu, Device
from ..spaces.parameters import load_buffers
from .engine import Engine
from .frozen import frozen_where

_SCALES = (1.0, 30.0)  # of a change, in mean sizes of a tensor: the second where the first shows nothing
_CLEAR = 1e-5  # of the loss: what a change does to it on the processor beyond rounding
_DRAWN = 1 << 20  # elements; larger tensors are changed by these again and again

Float32 = NDArray[np.float32]


class Liveness(NamedTuple):
    """Names of the tensors whose changes don't reach the loss, and whether it has its bits again after them."""

    dead: tuple[str, ...]
    restored: bool


def liveness(bundle: Bundle, device: Device, batch: MicroBatch, threads: int = 0) -> Liveness:
    """Change every trainable tensor on a device.

    What shows no effect there is tried on the processor: a tensor that does nothing on these rows, or no more than
    rounding, isn't dead.

    Args:
        bundle: what is tuned.
        device: where; it holds a second set of buffers meanwhile.
        batch: the rows, as the device pads them.
        threads: of the passes.
    """
    there = _Changed(bundle, device, batch, threads)
    names = [p.name for p in bundle.manifest.trainable]
    dead = [name for name in names if there.effect(name) == 0.0]
    restored = there.losses() == there.first
    del there
    device.give_back()
    if not dead:
        return Liveness((), restored)
    here = _Changed(bundle, Cpu(threads), batch, threads)
    return Liveness(tuple(name for name in dead if here.effect(name) > _CLEAR), restored)


class _Changed:
    """The loss of some rows where tensors are changed one by one."""

    def __init__(self, bundle: Bundle, device: Device, batch: MicroBatch, threads: int) -> None:
        self._device, self._given = device, batch.given
        self._buffers = load_buffers(bundle, device)
        fill_zeros(bundle.manifest, device, self._buffers)
        frozen = frozen_where(bundle, device, "auto")
        path = bundle.path(LOSS_FILE)
        self._engine = Engine(path, self._buffers, device=device, threads=threads, frozen=frozen)
        self._noise = np.random.default_rng(4).standard_normal(_DRAWN, np.float32)
        self.first = self.losses()

    def losses(self) -> bytes:
        """Return the bits of the rows' losses."""
        return self._engine.run(self._given, ("loss",))["loss"].tobytes()

    def effect(self, name: str) -> float:
        """Return what a change of a tensor does to a row's loss at most, relative to the largest; restore it."""
        device, buffer = self._device, self._buffers[name]
        kept = np.array(device.host(buffer), np.float32)
        spread = float(np.abs(kept).mean()) + 0.1
        found = 0.0
        for scale in _SCALES:
            device.write(buffer, kept + np.float32(scale * spread) * np.resize(self._noise, kept.shape))
            found = _difference(self.losses(), self.first)
            if found > 0.0:
                break
        device.write(buffer, kept)
        return found


def _difference(found: bytes, first: bytes) -> float:
    if found == first:
        return 0.0
    one, other = np.frombuffer(found, np.float32), np.frombuffer(first, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(one - other).max() / max(float(np.abs(other).max()), 1e-30)
    return float(off) if np.isfinite(off) else np.inf


def fill_zeros(manifest: Manifest, device: Device, buffers: Mapping[str, Buffer]) -> None:
    """Give values to what is zero as export makes it, beside which nothing else shows an effect."""
    for name, values in values_for_zeros(manifest, buffers).items():
        if not device.host(buffers[name]).any():
            device.write(buffers[name], values)


def values_for_zeros(manifest: Manifest, shapes: Mapping[str, Buffer]) -> dict[str, Float32]:
    """Return small random values for the factors of branches and for a new head."""
    rng = np.random.default_rng(2)
    head = manifest.head
    heads = [head.weight] if head is not None and head.fresh else []
    names: Iterable[str] = (n for n in (*manifest.factors, *heads) if n in shapes)
    return {n: np.float32(0.1) * rng.standard_normal(shapes[n].shape, np.float32) for n in names}
