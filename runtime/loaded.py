"""A bundle or a run with a session ready: what evaluation and prediction share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.manifest import LOSS_FILE, MANIFEST_FILE

from .data import KeyNames
from .machine.threads import threads_for
from .passes.engine import Engine
from .passes.frozen import frozen_tensors
from .run.run_folder import CONFIG_FILE, Run
from .spaces.parameters import load_buffers
from .tasks import Task, task_for


@dataclass(frozen=True)
class Loaded:
    """The bundle, its task, and an engine with the tuned weights, or the exported ones.

    ``keys`` are what a run's data called its fields, so that data like it is understood without flags;
    ``columns`` name the elements of the only input, as the run or the source did.
    """

    bundle: Bundle
    task: Task
    engine: Engine
    keys: KeyNames
    columns: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, path: str | Path, *, which: str | None = None, threads: int = 0, provider: str = "cpu"
    ) -> Loaded:
        """Load a bundle as exported, or a run's bundle with its tuned weights.

        Args:
            path: a bundle's or a run's folder.
            which: "best" or "last" weights of a run; best by default where the run evaluated.
            threads: of the forward passes; 0: one per core.
            provider: execution provider.

        Raises:
            BundleError: ``path`` is neither, or something in it is missing or damaged.
            InputError: ``which`` is given for a bundle.
        """
        bundle, run = open_bundle_or_run(Path(path))
        if run is None and which is not None:
            raise InputError(f"--which {which} is of a run's weights, and {path} is a bundle: leave it out")
        buffers = load_buffers(bundle)
        for name, value in run.weights(which).items() if run else ():
            np.copyto(buffers[name], np.asarray(value, np.float32).reshape(buffers[name].shape))
        engine = Engine(
            bundle.path(LOSS_FILE),
            buffers,
            threads=threads_for(bundle.manifest, threads),
            provider=provider,
            frozen=frozen_tensors(bundle) if run and run.options.prepack == "no" else None,
        )
        keys = KeyNames.of(run.options) if run else KeyNames()
        columns = run.facts.columns if run else ()
        return cls(bundle, task_for(bundle), engine, keys, columns or bundle.manifest.feature_names)


def open_bundle_or_run(path: Path) -> tuple[Bundle, Run | None]:
    """Open whichever of the two a folder is.

    Raises:
        BundleError: it is neither.
    """
    if (path / CONFIG_FILE).is_file():
        run = Run.open(path)
        return run.bundle(), run
    if (path / MANIFEST_FILE).is_file():
        return Bundle.open(path), None
    what = "does not exist" if not path.exists() else f"has neither {MANIFEST_FILE} nor {CONFIG_FILE}"
    raise BundleError(f"{path} {what}: give a bundle (zoedge export) or a run (zoedge tune)")
