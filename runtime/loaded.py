"""A bundle or a run with a session ready: what evaluation and prediction share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.manifest import LOSS_FILE

from .data import KeyNames
from .data.facts import Facts
from .device import open_device
from .device.base import Buffer, Device
from .machine.threads import threads_for
from .passes.engine import Engine
from .passes.frozen import frozen_where
from .run.opened import Source, open_source
from .spaces.parameters import load_buffers
from .tasks import Task, task_for
from .tasks.tokenizer import Side


@dataclass(frozen=True)
class Loaded:
    """The bundle, its task, and an engine with the tuned weights, or the exported ones.

    ``keys`` are what a run's data called its fields, so that data like it is
    understood without flags; ``columns`` name the elements of the only input, as the run or the source did,
    ``header`` all columns of the run's training file, and ``shape`` says which fields the run's rows had.
    ``untaught`` is a sentence where a new head is as export made it.
    """

    bundle: Bundle
    task: Task
    engine: Engine
    keys: KeyNames
    columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    truncation_side: Side | None = None
    shape: str = ""
    untaught: str = ""

    @classmethod
    def open(
        cls,
        path: Source,
        *,
        which: str | None = None,
        threads: int = 0,
        provider: str = "cpu",
        precision: str = "auto",
        truncation_side: Side | None = None,
    ) -> Loaded:
        """Load a bundle as exported, or a run's bundle with its tuned weights.

        Args:
            path: a bundle or a run, or the folder of one.
            which: "best" or "last" weights of a run; best by default where the run evaluated.
            threads: of the forward passes; 0: one per core.
            provider: execution provider.
            precision: of the passes there.
            truncation_side: the end that long texts lose; a run knows which.

        Raises:
            BundleError: ``path`` is neither, or something in it is missing or damaged.
            InputError: ``which`` is given for a bundle.
        """
        bundle, run = open_source(path)
        if run is None and which is not None:
            raise InputError(
                f"--which {which} is of a run's weights, and {bundle.folder} is a bundle: leave it out"
            )
        device = open_device(provider, threads, precision)
        buffers = load_buffers(bundle, device)
        for name, value in run.weights(which).items() if run else ():
            device.write(buffers[name], np.asarray(value, np.float32))
        engine = Engine(
            bundle.path(LOSS_FILE),
            buffers,
            device=device,
            threads=threads_for(bundle.manifest, threads),
            frozen=frozen_where(bundle, device, run.options.prepack if run else "auto"),
        )
        keys = KeyNames.of(run.options) if run else KeyNames()
        columns = run.facts.columns if run else ()
        side = truncation_side or (run.options.truncation_side if run else None)
        task = task_for(bundle, side=side)
        columns = columns or bundle.manifest.feature_names
        facts = run.facts if run else Facts()
        told = _untaught(bundle, device, buffers)
        return cls(bundle, task, engine, keys, columns, facts.header, side, facts.shape, told)


def _untaught(bundle: Bundle, device: Device, buffers: Mapping[str, Buffer]) -> str:
    """Return a sentence where a new head is all zeros, as export makes it; "" elsewhere."""
    head = bundle.manifest.head
    if head is None or not head.fresh or device.host(buffers[head.weight]).any():
        return ""
    return (
        f"the new head of {bundle.folder} is all zeros, as nothing has solved or trained it yet: its answers are "
        "chance until zoedge tune has run"
    )
