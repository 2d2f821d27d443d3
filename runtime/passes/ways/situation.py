"""What a run's way of measuring its points is chosen for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zoedge.bundle import Bundle
from zoedge.options import TuneOptions

from ...data.batches import MicroBatch
from ...device import Array, Buffer, Device
from ..engine import Engine, SessionSettings
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
        options: what the user asked for.
        form: of the whole graph, as a resumed run was begun with it; None for by the forms' rules.
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
    options: TuneOptions = field(default_factory=TuneOptions)
    form: str | None = None

    @property
    def rounds_together(self) -> bool:
        """Whether the rows of a pass are rounded by the largest of them all, so that company changes numbers."""
        quantization = self.bundle.manifest.quantization
        return quantization is not None and quantization.kind == "int8" and not self.device.weights_only

    @property
    def session(self) -> SessionSettings:
        """The settings of the run's sessions."""
        return {"device": self.device, "threads": self.threads, "frozen": self.frozen}

    def engine(self, file: str) -> Engine:
        """Open a whole graph of the bundle."""
        return Engine(self.bundle.path(file), self.buffers, **self.session)
