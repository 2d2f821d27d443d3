"""``zoedge replay``: the weights of a run from its bundle and its journal, without a forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from zoedge import options as tune_options
from zoedge.errors import BundleError, InputError
from zoedge.files import as_path, new_folder

from .device import open_device
from .job import build_fold
from .measuring.target_scale import with_scale
from .noise.reference import NOISE_VERSION
from .plan import Plan
from .records import Record, Step
from .run import journal as journals
from .run.opened import RunLike, open_run
from .run.run_folder import TENSORS_FILE, save_tensors


class Replayed(NamedTuple):
    """What was rebuilt: the file, how many steps went in, and the bytes behind the last good record."""

    path: Path
    steps: int
    torn: int


def replay(run: RunLike, output: str | Path, *, steps: int | None = None, provider: str = "cpu") -> Replayed:
    """Rebuild the weights of a run.

    Args:
        run: the run, or its folder; only its configuration and journal are read.
        output: a new folder; the tensors go there as ``tensors.safetensors``.
        steps: replay only that many; all by default.
        provider: what moves the weights, whatever the run had: no pass is made.

    Raises:
        BundleError: the journal, or the bundle it speaks of, can't be used.
    """
    opened, output = open_run(run), as_path(output, "a new folder")
    bundle = opened.bundle()
    contents = journals.read_journal(opened.journal)
    header = contents.header
    if header.bundle != bundle.digest:
        raise BundleError(f"{bundle.folder} is not the bundle that {opened.folder} tuned: put that one back")
    if header.noise != NOISE_VERSION:
        raise BundleError(
            f"{opened.folder} has noise version {header.noise}, and this zoedge has {NOISE_VERSION}"
        )
    options = tune_options.make(header.options, str(opened.journal))
    plan = Plan(options, options.steps, None, tuple(header.solved), 0)
    device = open_device(provider, options.threads, "float32")  # of passes, which there are none of
    fold = build_fold(bundle, device, plan)
    taken = sum(isinstance(record, Step) for record in contents.records)
    if steps is not None and steps > taken:
        raise InputError(
            f"--steps {steps} is more than the {taken} that {opened.folder} took: give at most {taken}"
        )
    fold.replay(_until(contents.records, taken if steps is None else steps))
    fold.rest()
    with new_folder(output) as folder:
        tensors = fold.parameters.values(p.name for p in bundle.manifest.trainable)
        save_tensors(folder / TENSORS_FILE, with_scale(tensors, opened.facts.target, bundle.manifest))
    return Replayed(output / TENSORS_FILE, fold.step, contents.torn)


def _until(records: list[Record], steps: int) -> list[Record]:
    """Return the records of the first ``steps`` steps, with what was assigned before and after each."""
    return [r for r in records if r.step < steps or (r.step == steps and not isinstance(r, Step))]
