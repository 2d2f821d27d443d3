"""What a run's way of measuring its probes is chosen for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoedge.bundle import Bundle
from zoedge.manifest import FEW_ROWS_FILE, LOSS_FILE

from ..data.batches import MicroBatch
from ..device import Array, Buffer, Device
from ..passes.engine import Engine, SessionSettings
from ..passes.probing import OneByOne, Probing, Together
from ..passes.staged import Staged
from .caching import Recurring


@dataclass(frozen=True)
class Situation:
    """What the choice is made for.

    Attributes:
        bundle, buffers: as for ``Engine``.
        varying: names of the buffers that differ between the points of a step.
        batch: the passes of one step.
        outputs: what the objective reads; None for all.
        points: points of a step.
        device, threads, frozen: as for ``Engine``.
        recurring: how rows recur; None where nothing is kept of them.
        rows: rows that a layer sees in the largest pass of a step, tokens where there are any; None if unknown.
        few_rows: whether the whole graph is the one with trained matrices on the left.
    """

    bundle: Bundle
    buffers: Mapping[str, Buffer]
    varying: frozenset[str]
    batch: Sequence[MicroBatch]
    outputs: Sequence[str] | None
    points: int
    device: Device
    threads: int
    frozen: Mapping[str, Array] | None = None
    recurring: Recurring | None = None
    rows: int | None = None
    few_rows: bool = False

    @property
    def stackable(self) -> bool:
        """Whether several points fit into one pass: only LoRA factors differ between them."""
        manifest = self.bundle.manifest
        return manifest.stages is not None and self.varying.issubset(manifest.factors)

    @property
    def rounds_together(self) -> bool:
        """Whether the rows of a pass are rounded by the largest of them all, so that company changes numbers."""
        quantization = self.bundle.manifest.quantization
        return quantization is not None and quantization.kind == "int8"

    def whole(self) -> Engine:
        """Open the whole graph."""
        file = FEW_ROWS_FILE if self.few_rows else LOSS_FILE
        return Engine(self.bundle.path(file), self.buffers, **self._session())

    def staged(self) -> Staged:
        """Open the two parts."""
        return Staged(self.bundle, self.buffers, **self._session())

    def _session(self) -> SessionSettings:
        return {"device": self.device, "threads": self.threads, "frozen": self.frozen}

    def together(self, staged: Staged, count: int) -> Probing:
        """Return the way that measures ``count`` points a pass."""
        if count == 1:
            return OneByOne(staged)
        return Together(staged, {n: self.buffers[n] for n in sorted(self.varying)}, count, self.device)
